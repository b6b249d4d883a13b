/* Communication: transports behind one table, waits that always end, agreement between ranks.
 *
 * Everything is made of non-blocking sends and receives that are tested until a deadline; no call
 * blocks inside a foreign library. Peers are ranks of the group, 0..size-1. A rank never sends to
 * itself. */
#ifndef WTN_COMM_H
#define WTN_COMM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <witan/group.h>

typedef struct wtn_comm wtn_comm_t;

/* One send or receive. Zero-initialised it is idle. */
typedef struct wtn_request {
    void   *handle; /* the transport's own */
    int32_t peer;
    bool    active; /* posted, not yet complete */
    bool    is_send;
    size_t  bytes;          /* posted; after completion of a receive: what arrived */
    size_t  expected_bytes; /* receives: SIZE_MAX, or anything else arriving is an error */
} wtn_request_t;

/* Message kinds; with the id of the plan they make the tag. */
typedef enum wtn_tag {
    WTN_TAG_FAULT    = 0,
    WTN_TAG_MANIFEST = 1,
    WTN_TAG_TOKENS   = 2,
    WTN_TAG_ROWS     = 3,
    WTN_TAG_REDUCE   = 4,
    WTN_TAG_GATHER   = 5,
    WTN_TAG_USER     = 6, /* the program's own */
    WTN_TAG_ROLL     = 7,
    WTN_TAG_ARRIVAL  = 8,
    WTN_TAG_END      = 9,
    WTN_TAG_COUNT    = 16,
} wtn_tag_t;

/* A transport. `post` starts a send or receive of request->bytes at `data`; `test` completes what
 * it can of the active ones among requests[0..count) and counts those still active; `cancel` ends
 * what it can and counts those still active, of which a peer may still reach the memory; `is_over`
 * says, also without the comm, whether that has ended for one of these; `find` looks for a message
 * that no receive is posted for. */
typedef struct wtn_transport {
    const char *name;
    bool (*probe)(char *reason, size_t reason_bytes);
    witan_status_t (*post)(wtn_comm_t *comm, wtn_request_t *request, void *data, int32_t channel,
                           wtn_tag_t tag);
    witan_status_t (*test)(wtn_comm_t *comm, wtn_request_t *requests, size_t count,
                           size_t *active_count);
    size_t (*cancel)(wtn_comm_t *comm, wtn_request_t *requests, size_t count);
    bool (*is_over)(wtn_request_t *request);
    bool (*find)(wtn_comm_t *comm, int32_t channel, wtn_tag_t tag, int32_t *peer, size_t *bytes);
    void (*close)(wtn_comm_t *comm);
} wtn_transport_t;

extern const wtn_transport_t wtn_transport_self;
extern const wtn_transport_t wtn_transport_mpi;
extern const wtn_transport_t wtn_transport_nccl;

/* All transports, for `witan info`; ends with NULL. */
extern const wtn_transport_t *const wtn_transports[];

#define WTN_LEFT_CHANNELS 64 /* the last ones of which late messages are taken in */

struct wtn_comm {
    const wtn_transport_t *transport;
    int32_t                rank, size;
    uint64_t               timeout_ns;
    int32_t                channel_next; /* ids for plans; equal on all ranks */
    int32_t                channel_max;  /* the last one the transport has tags for */
    atomic_bool            broken;       /* a wait failed: messages may be left over */
    bool                   crowded;      /* ranks share this one's core: waits yield at once */
    bool                   out_of_step;  /* a gather on channel 0 failed: later ones would mix */
    void                  *state;        /* the transport's own */
    size_t                 left_count;   /* of channels left, modulo the size */
    size_t                 left_next;    /* to be looked at; the last one left, then those before */
    int32_t                left_channels[WTN_LEFT_CHANNELS];
    struct wtn_watch      *beats; /* while a layer loads: gathers on channel 0 wait for who beats */
};

/* Sweep, and take a channel for messages of `what`, the same on all ranks that take as many. Never
 * one used before: a late message of an old plan must not meet a new one. WITAN_E_UNSUPPORTED: none
 * is left. */
witan_status_t wtn_take_channel(wtn_comm_t *comm, const char *what, int32_t *channel);

/* Start sending `bytes` at `data`; the memory must stay until the request completes. */
witan_status_t wtn_send_post(wtn_comm_t *comm, wtn_request_t *request, int32_t peer,
                             int32_t channel, wtn_tag_t tag, const void *data, size_t bytes);

/* Start receiving at most `bytes`; `exact`: fewer is an error naming the peer. */
witan_status_t wtn_recv_post(wtn_comm_t *comm, wtn_request_t *request, int32_t peer,
                             int32_t channel, wtn_tag_t tag, void *data, size_t bytes, bool exact);

/* One pass over the active requests; *done once none is left. */
witan_status_t wtn_progress(wtn_comm_t *comm, wtn_request_t *requests, size_t count, bool *done);

/* A watch for peers' faults on one channel: a receive from every peer, always posted. A rank that
 * must give up a step sends a notice to its peers; their next wait ends with it. */
typedef struct wtn_watch wtn_watch_t;
witan_status_t           wtn_watch_open(wtn_watch_t **out, wtn_comm_t *comm, int32_t channel,
                                        const int32_t *peers, int32_t peer_count);
/* Tell all peers `status` and the last error's text. Never waits long: undeliverable notices are
 * dropped. */
void wtn_watch_raise(wtn_watch_t *watch, witan_status_t status);
/* WITAN_E_PEER "rank 2: <text>" if a notice is there, WITAN_E_TIMEOUT if it is of one; takes in
 * beats. */
witan_status_t wtn_watch_check(wtn_watch_t *watch);
/* Tell all peers that this rank is still at work, several times per time-out at most. */
void wtn_watch_beat(wtn_watch_t *watch);
/* When the last beat of any peer was taken in; 0: none. */
uint64_t wtn_watch_heard_ns(const wtn_watch_t *watch);
void     wtn_watch_close(wtn_watch_t *watch); /* NULL is allowed */

/* Wait for all until the deadline (wtn_now_ns clock) or a notice on `watch` (may be NULL); a beat
 * there puts the deadline off to a time-out from then. On
 * time-out: WITAN_E_TIMEOUT, text "<phase>: not heard from ranks 2, 5 within 60 s". After any
 * failure comm->broken is set and the requests must be cancelled. `phase` is a static string. */
witan_status_t wtn_wait(wtn_comm_t *comm, wtn_request_t *requests, size_t count, const char *phase,
                        uint64_t deadline_ns, wtn_watch_t *watch);

/* The same; `poll` (may be NULL) is called with `context` on every pass, to move other messages. */
witan_status_t wtn_wait_polling(wtn_comm_t *comm, wtn_request_t *requests, size_t count,
                                const char *phase, uint64_t deadline_ns, wtn_watch_t *watch,
                                void (*poll)(void *context), void *context);

/* Requests given up that a peer may still serve: sends not taken and receives that a message has
 * begun to fill. {0}: none. */
typedef struct wtn_remains {
    wtn_request_t *requests; /* [count] */
    size_t         count;
    bool           unknown; /* there are others, of which nothing will tell the end */
} wtn_remains_t;

/* Give up what is still active. Returns how many of them a peer may still serve, and adds these to
 * `remains`: their memory must be freed by way of wtn_release. */
size_t wtn_cancel(wtn_comm_t *comm, wtn_request_t *requests, size_t count, wtn_remains_t *remains);

/* Call release(memory) once none of `remains` can be served any more: at once, or in a later sweep
 * of this group or another. `release` only frees. */
void wtn_release(wtn_comm_t *comm, wtn_remains_t *remains, void (*release)(void *memory),
                 void *memory);

/* Wait until none of `remains` can be served any more, and drop those of which it is so; false at
 * the deadline, or where nothing tells. */
bool wtn_settle(wtn_comm_t *comm, wtn_remains_t *remains, uint64_t deadline_ns);

/* This rank receives nothing more on a channel where peers may still send: what they do would never
 * be taken, and keep their memory. */
void wtn_leave_channel(wtn_comm_t *comm, int32_t channel);

/* Take in messages of channels left, as many as there is time for, and release what is over. Never
 * waits. */
void wtn_sweep(wtn_comm_t *comm);

/* Releases still to come. */
size_t wtn_kept_count(void);

/* now + comm->timeout_ns */
uint64_t wtn_deadline(const wtn_comm_t *comm);

/* Send and receive one block with the deadline, on channel 0. */
witan_status_t wtn_send(wtn_comm_t *comm, int32_t peer, wtn_tag_t tag, const void *data,
                        size_t bytes, const char *phase);
witan_status_t wtn_recv(wtn_comm_t *comm, int32_t peer, wtn_tag_t tag, void *data, size_t bytes,
                        const char *phase);

/* all[r] = block of rank r, `bytes` each. Collective over the group. Messages are sent from and
 * received into memory of its own, so `all` may be freed after any outcome. On channel 0 a failure
 * leaves the ranks at different gathers; every later one is refused with WITAN_E_STATE. */
witan_status_t wtn_allgather(wtn_comm_t *comm, const void *mine, size_t bytes, void *all,
                             const char *phase);
/* The same on another channel, for steps that may run beside others. */
witan_status_t wtn_allgather_on(wtn_comm_t *comm, int32_t channel, const void *mine, size_t bytes,
                                void *all, const char *phase);

/* Ranks in the words of an error text: "rank 2", "ranks 2, 5". Starts as {0}; added ascending. */
typedef struct wtn_rank_list {
    char    text[256]; /* ends with "..." where they are too many */
    int32_t count;
} wtn_rank_list_t;

void wtn_rank_list_add(wtn_rank_list_t *list, int32_t rank);

/* A named value that must be equal on all ranks, as text. */
#define WTN_FIELD_BYTES 64
#define WTN_FIELDS_MAX  56
typedef struct wtn_field {
    const char *name;
    char        value[WTN_FIELD_BYTES];
} wtn_field_t;

/* printf into a field. */
void wtn_field_set(wtn_field_t *field, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* End a collective creation: every rank passes its status so far (and its last error) and the
 * fields that must agree. WITAN_OK only if all ranks pass WITAN_OK and equal fields. Otherwise a
 * failing rank gets its own status back with its own text; the others get WITAN_E_PEER "rank 2:
 * <its text>"; differing fields give all ranks WITAN_E_MISMATCH "<scope>: <name>: <value> on rank
 * 0, <value> on rank 3". `field_count` <= WTN_FIELDS_MAX, equal on all ranks. Collective. */
witan_status_t wtn_agree(wtn_comm_t *comm, const char *scope, witan_status_t status,
                         const wtn_field_t *fields, size_t field_count);
witan_status_t wtn_agree_on(wtn_comm_t *comm, int32_t channel, const char *scope,
                            witan_status_t status, const wtn_field_t *fields, size_t field_count);

struct wtn_reduce_args; /* kernels/backend.h */

/* Sum over `peers` (one of them this rank, at index `mine`) of fp32 `partial` [count], rounded once
 * to `out`; the same order and so the same bits on every rank. `scratch`: wtn_allreduce_bytes. */
typedef struct wtn_allreduce_args {
    const int32_t *peers;
    int32_t        peer_count, mine;
    int32_t        channel;
    const float   *partial;
    int64_t        count;
    witan_dtype_t  out_dtype;
    void          *out;
    void          *scratch;
    wtn_request_t *requests; /* [2 * peer_count], idle */
    int32_t        thread_count;
    wtn_watch_t   *watch;
    witan_status_t (*reduce)(const struct wtn_reduce_args *args); /* the backend's */
} wtn_allreduce_args_t;

size_t wtn_allreduce_bytes(int64_t count, int32_t peer_count);
/* Bytes this rank sends: the others' parts in fp32, then its own part, rounded, to each. */
int64_t        wtn_allreduce_send_bytes(const wtn_allreduce_args_t *args);
witan_status_t wtn_allreduce(wtn_comm_t *comm, const wtn_allreduce_args_t *args);

/* The comm of a group. */
wtn_comm_t *wtn_group_comm(witan_group_t *group);

#endif
