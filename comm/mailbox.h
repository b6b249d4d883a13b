/* Letters of one size to and from every peer on a channel: a receive from each is posted when the
 * box opens. */
#ifndef WTN_MAILBOX_H
#define WTN_MAILBOX_H

#include "comm/comm.h"

typedef struct wtn_mailbox {
    wtn_comm_t    *comm; /* this and the next four are given */
    const char    *name;
    int32_t        channel;
    wtn_tag_t      tag;
    size_t         bytes;      /* of a letter */
    int32_t        peer_count; /* without this rank */
    wtn_request_t *recvs, *sends;
    wtn_remains_t  remains; /* letters sent before the last one and not taken */
    char          *letters; /* [peer_count] what came in; freed by the owner */
} wtn_mailbox_t;

/* Peers [peer_count] of the comm, this rank perhaps among them. What there is stays on failure. */
witan_status_t wtn_mailbox_open(wtn_mailbox_t *box, const int32_t *peers, int32_t peer_count);

/* The letter of a peer. */
static inline void *wtn_mailbox_letter(const wtn_mailbox_t *box, int32_t index)
{
    return box->letters + (size_t)index * box->bytes;
}

/* Wait for a peer's next letter. */
witan_status_t wtn_mailbox_listen(wtn_mailbox_t *box, int32_t index);

/* Start to send a peer a letter, which must stay. */
void wtn_mailbox_send(wtn_mailbox_t *box, int32_t index, const void *letter);

/* Close; release(owner) is called once no peer can reach a letter any more, see wtn_release. */
void wtn_mailbox_close(wtn_mailbox_t *box, void (*release)(void *owner), void *owner);

#endif
