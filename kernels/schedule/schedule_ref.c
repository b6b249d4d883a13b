#include <inttypes.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "kernels/schedule/schedule.h"

/* The next place of each pair, and the last token that went there. */
typedef struct cursor {
    int64_t *token, *row, *last; /* [peers] */
} cursor_t;

static bool is_expert(const wtn_schedule_args_t *args, int32_t id)
{
    return id >= 0 && id < args->expert_count;
}

/* Place in owner and local of the replica that computes expert `id` of token t. */
static int64_t replica_of(const wtn_schedule_args_t *args, int32_t id, int64_t t)
{
    const int32_t *begin = args->replica_begin;

    return begin == NULL ? id : begin[id] + (args->salt + t) % (begin[id + 1] - begin[id]);
}

static void reset(const wtn_schedule_args_t *args, cursor_t *next)
{
    for (int32_t j = 0; j < args->peer_count; j++) {
        next->token[j] = next->row[j] = 0;
        next->last[j]                 = -1;
    }
}

static void count(const wtn_schedule_args_t *args, cursor_t *next)
{
    memset(args->expert_token_counts, 0, (size_t)args->expert_count * sizeof(int64_t));
    for (int64_t i = 0; i < args->token_count * args->topk; i++) {
        const int32_t id = args->ids[i];
        int32_t       j;

        if (!is_expert(args, id)) {
            continue;
        }
        j = args->owner[replica_of(args, id, i / args->topk)];
        args->expert_token_counts[id]++;
        next->token[j] += next->last[j] != i / args->topk;
        next->row[j]++;
        next->last[j] = i / args->topk;
    }
}

/* Prefix sums over the pairs; rounds that begin past a pair's end begin at its end. */
static void begin_pairs(const wtn_schedule_args_t *args, const cursor_t *next)
{
    args->pair_token_begin[0] = args->pair_row_begin[0] = 0;
    for (int32_t j = 0; j < args->peer_count; j++) {
        args->pair_token_begin[j + 1] = args->pair_token_begin[j] + next->token[j];
        args->pair_row_begin[j + 1]   = args->pair_row_begin[j] + next->row[j];
        for (int64_t r = 0; r <= args->round_count; r++) {
            args->round_row_begin[j * ((int64_t)args->round_count + 1) + r] = next->row[j];
        }
    }
}

static void place_token(const wtn_schedule_args_t *args, int32_t j, int64_t t, int64_t token,
                        int64_t row)
{
    args->send_token[args->pair_token_begin[j] + token]      = t;
    args->token_first_row[args->pair_token_begin[j] + token] = row;
    if (token % args->round_tokens == 0) {
        args->round_row_begin[j * ((int64_t)args->round_count + 1) + token / args->round_tokens] =
            row;
    }
}

static void place(const wtn_schedule_args_t *args, cursor_t *next)
{
    const int32_t K     = args->topk;
    const int64_t slots = args->reduced ? wtn_min_i64(K, args->peer_count) : K;

    for (int64_t t = 0; t < args->token_count; t++) {
        int64_t *sum_index = args->sum_index + t * slots;
        int64_t  slot      = 0;

        for (int64_t i = 0; i < slots; i++) {
            sum_index[i] = -1;
        }
        for (int32_t k = 0; k < K; k++) {
            const int32_t id = args->ids[t * K + k];
            int32_t       j;

            if (!is_expert(args, id)) {
                continue;
            }
            j = args->owner[replica_of(args, id, t)];
            if (next->last[j] != t) {
                next->last[j] = t;
                if (args->reduced) {
                    sum_index[slot++] = args->pair_token_begin[j] + next->token[j];
                }
                place_token(args, j, t, next->token[j]++, next->row[j]);
            }
            if (!args->reduced) {
                sum_index[k] = args->pair_row_begin[j] + next->row[j];
            }
            next->row[j]++;
        }
    }
}

witan_status_t wtn_schedule_ref(const wtn_schedule_args_t *args)
{
    const size_t peers  = (size_t)args->peer_count;
    wtn_carver_t carver = {args->workspace, 0};
    cursor_t     next;

    next.token = wtn_carve(&carver, peers, sizeof(int64_t));
    next.row   = wtn_carve(&carver, peers, sizeof(int64_t));
    next.last  = wtn_carve(&carver, peers, sizeof(int64_t));
    if (args->workspace == NULL || carver.bytes > args->workspace_bytes) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "schedule: workspace: expected %zu bytes; found %zu",
                         carver.bytes, args->workspace_bytes);
    }
    reset(args, &next);
    count(args, &next);
    begin_pairs(args, &next);
    reset(args, &next);
    place(args, &next);
    return WITAN_OK;
}

/* ---- pack ---- */

static void pack_token(const wtn_pack_args_t *args, int32_t j, int64_t slot, int64_t pair_token)
{
    const wtn_schedule_args_t *s     = args->schedule;
    const int32_t              K     = s->topk;
    const int64_t              words = wtn_token_meta_words(K, s->reduced);
    const int64_t              t     = s->send_token[pair_token];
    int32_t                   *meta  = args->out_meta[j] + slot * words;
    int32_t                    count = 0;

    memcpy((char *)args->out_tokens[j] + (size_t)slot * args->row_bytes,
           (const char *)args->hidden + (size_t)t * args->row_bytes, args->row_bytes);
    meta[0] = (int32_t)(s->token_first_row[pair_token] -
                        s->round_row_begin[j * ((int64_t)s->round_count + 1) + args->round]);
    for (int32_t k = 0; k < K; k++) {
        const int32_t id      = s->ids[t * K + k];
        const int64_t replica = is_expert(s, id) ? replica_of(s, id, t) : -1;

        if (replica < 0 || s->owner[replica] != j) {
            continue;
        }
        meta[1 + count] = s->local[replica];
        if (s->reduced) {
            memcpy(&meta[1 + K + count], &s->weights[t * K + k], sizeof(float));
        }
        count++;
    }
    for (; count < K; count++) {
        meta[1 + count] = -1;
        if (s->reduced) {
            meta[1 + K + count] = 0;
        }
    }
}

/* A slot that no token fills. */
static void pack_nothing(int32_t *meta, int32_t topk, bool weights)
{
    memset(meta, 0, (size_t)wtn_token_meta_words(topk, weights) * sizeof(*meta));
    for (int32_t k = 0; k < topk; k++) {
        meta[1 + k] = -1;
    }
}

witan_status_t wtn_pack_ref(const wtn_pack_args_t *args)
{
    const wtn_schedule_args_t *s     = args->schedule;
    const int64_t              words = wtn_token_meta_words(s->topk, s->reduced);

    for (int32_t j = 0; j < s->peer_count; j++) {
        const int64_t begin = s->pair_token_begin[j] + args->round * s->round_tokens;
        const int64_t end   = wtn_min_i64(begin + s->round_tokens, s->pair_token_begin[j + 1]);
        int64_t       slot  = 0;

        if (args->out_tokens[j] == NULL) {
            continue;
        }
        for (; begin + slot < end; slot++) {
            pack_token(args, j, slot, begin + slot);
        }
        for (; slot < args->meta_slots; slot++) {
            pack_nothing(args->out_meta[j] + slot * words, s->topk, s->reduced);
        }
    }
    return WITAN_OK;
}

/* ---- list ---- */

/* The source whose tokens slot `slot` is one of, or -1. */
static int32_t source_of(const wtn_list_args_t *args, int64_t slot)
{
    for (int32_t s = 0; s < args->peer_count; s++) {
        if (slot >= args->token_begin[s] && slot - args->token_begin[s] < args->token_count[s]) {
            return s;
        }
    }
    return -1;
}

witan_status_t wtn_list_ref(const wtn_list_args_t *args)
{
    const int32_t K     = args->topk;
    const int64_t words = wtn_token_meta_words(K, args->reduced);

    for (int64_t slot = 0; slot < args->token_slots; slot++) {
        const int32_t  source = source_of(args, slot);
        const int32_t *meta   = args->meta + slot * words;

        for (int32_t k = 0; k < K; k++) {
            const int64_t i      = slot * K + k;
            const bool    exists = source >= 0 && meta[1 + k] >= 0;
            const int64_t row    = exists ? args->row_out_begin[source] + meta[0] + k : 0;

            args->row_expert[i] = exists ? meta[1 + k] : -1;
            args->row_in[i]     = exists ? slot : 0;
            args->row_out[i]    = row;
            if (args->reduced) {
                args->reduce_index[i]  = exists ? row : -1;
                args->reduce_weight[i] = 0.0f;
                if (exists) {
                    memcpy(&args->reduce_weight[i], &meta[1 + K + k], sizeof(float));
                }
            }
        }
    }
    return WITAN_OK;
}

witan_status_t wtn_local_ref(const wtn_local_args_t *args)
{
    const wtn_schedule_args_t *s = args->schedule;

    for (int64_t i = 0; i < s->token_count * s->topk; i++) {
        const int32_t id = s->ids[i];

        args->row_expert[i] = is_expert(s, id) ? s->local[replica_of(s, id, i / s->topk)] : -1;
    }
    return WITAN_OK;
}
