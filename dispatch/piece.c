/* Pieces: what one source sends to one domain in one round, a manifest and tokens. */
#include <inttypes.h>
#include <string.h>

#include "core/error.h"
#include "dispatch/piece.h"

#define MANIFEST_MAGIC 0x4e544957u /* "WITN" */

/* Where the manifest of source `s` lies: its header, then its rows. */
char *wtn_piece_slot(const witan_plan_t *plan, const wtn_round_t *round, int32_t s)
{
    return round->manifest_recv + (size_t)s * sizeof(wtn_manifest_t) +
           (size_t)plan->shape.source_row_begin[s] * sizeof(wtn_wire_row_t);
}

const wtn_wire_row_t *wtn_piece_rows(const witan_plan_t *plan, const wtn_round_t *round, int32_t s)
{
    return (const wtn_wire_row_t *)(const void *)(wtn_piece_slot(plan, round, s) +
                                                  sizeof(wtn_manifest_t));
}

char *wtn_piece_tokens(const witan_plan_t *plan, const wtn_round_t *round, int32_t s)
{
    return round->token_recv +
           (size_t)plan->shape.source_token_begin[s] * plan->layer->layout.row_bytes;
}

size_t wtn_piece_manifest_bytes_max(const witan_plan_t *plan, int32_t s)
{
    return sizeof(wtn_manifest_t) + (size_t)plan->shape.source_rows[s] * sizeof(wtn_wire_row_t);
}

size_t wtn_piece_write(const witan_plan_t *plan, const wtn_piece_t *piece, int64_t index,
                       int32_t domain, char *out)
{
    int64_t        left   = plan->send_rounds[domain] - index - 1;
    wtn_manifest_t header = {
        .magic       = MANIFEST_MAGIC,
        .round       = (uint32_t)index,
        .step        = plan->step,
        .rounds_left = left > 0 ? (uint64_t)left : 0,
        .token_count = piece->token_count,
        .row_count   = piece->row_count,
        .row_begin   = piece->row_begin,
    };
    wtn_wire_row_t *wire  = (wtn_wire_row_t *)(void *)(out + sizeof(header));
    int32_t         first = (int32_t)(piece->token_begin - plan->pair_token_begin[domain]);

    memcpy(out, &header, sizeof(header));
    for (int64_t i = 0; i < piece->row_count; i++) {
        int64_t row = piece->row_begin + i;

        wire[i] = (wtn_wire_row_t){.token  = plan->row_token[row] - first,
                                   .slot   = plan->row_slot[row],
                                   .weight = plan->row_weight[row]};
    }
    return sizeof(header) + (size_t)piece->row_count * sizeof(*wire);
}

void wtn_piece_clear(const witan_plan_t *plan, const wtn_round_t *round, int32_t s)
{
    memset(wtn_piece_slot(plan, round, s), 0, sizeof(wtn_manifest_t));
}

bool wtn_piece_read(const witan_plan_t *plan, const wtn_round_t *round, int32_t s,
                    wtn_manifest_t *header)
{
    memcpy(header, wtn_piece_slot(plan, round, s), sizeof(*header));
    return header->magic == MANIFEST_MAGIC && header->step == plan->step &&
           header->round == (uint32_t)round->index;
}

/* Its rows: do their tokens ascend, and are their experts held here? */
static witan_status_t check_rows(const witan_plan_t *plan, const wtn_round_t *round, int32_t s,
                                 const wtn_manifest_t *header)
{
    const wtn_placement_t *placement = &plan->layer->layout.placement;
    const wtn_wire_row_t  *wire      = wtn_piece_rows(plan, round, s);
    int32_t                rank = plan->expert_peers[s], topk = plan->layer->layout.config.topk;
    int64_t                last = 0, times = 0;

    for (int64_t i = 0; i < header->row_count; i++) {
        int32_t slot = wire[i].slot;

        if (wire[i].token < last || wire[i].token >= header->token_count || slot < 0 ||
            slot >= placement->slot_count ||
            plan->shape.domains.of[placement->slot_owner[slot]] != plan->home) {
            return WTN_ERROR(WITAN_E_MISMATCH,
                             "dispatch: rank %" PRId32 " sent token %" PRId32 " to slot %" PRId32
                             ", which is not held here",
                             rank, wire[i].token, slot);
        }
        times = i > 0 && wire[i].token == last ? times + 1 : 1;
        if (times > topk) {
            return WTN_ERROR(WITAN_E_MISMATCH,
                             "dispatch: rank %" PRId32 " sent token %" PRId32 " more than %" PRId32
                             " times",
                             rank, wire[i].token, topk);
        }
        last = wire[i].token;
    }
    return WITAN_OK;
}

witan_status_t wtn_piece_check(const witan_plan_t *plan, const wtn_round_t *round, int32_t s,
                               size_t bytes, wtn_manifest_t *header)
{
    int32_t  rank = plan->expert_peers[s];
    uint64_t left;

    if (bytes < sizeof(*header)) {
        return WTN_ERROR(WITAN_E_MISMATCH, "dispatch: rank %" PRId32 " announced %zu bytes", rank,
                         bytes);
    }
    if (!wtn_piece_read(plan, round, s, header)) {
        return WTN_ERROR(WITAN_E_MISMATCH,
                         "dispatch: rank %" PRId32 " is at step %" PRIu64 " round %" PRIu32
                         ", this rank at step %" PRIu64 " round %" PRId64,
                         rank, header->step, header->round, plan->step, round->index);
    }
    left = plan->source_rounds[s] - (uint64_t)round->index - 1;
    if (header->token_count < 0 || header->token_count > plan->shape.source_tokens[s] ||
        header->row_count < 0 || header->row_count > plan->shape.source_rows[s] ||
        bytes != sizeof(*header) + (size_t)header->row_count * sizeof(wtn_wire_row_t)) {
        return WTN_ERROR(WITAN_E_MISMATCH,
                         "dispatch: rank %" PRId32 " announced %" PRId64 " tokens and %" PRId64
                         " rows in %zu bytes, expected at most %" PRId64 " and %" PRId64
                         " and the bytes of those rows",
                         rank, header->token_count, header->row_count, bytes,
                         plan->shape.source_tokens[s], plan->shape.source_rows[s]);
    }
    if (round->index > 0 && header->rounds_left != left) {
        return WTN_ERROR(WITAN_E_MISMATCH,
                         "dispatch: rank %" PRId32 " announced %" PRIu64
                         " more rounds, expected %" PRIu64,
                         rank, header->rounds_left, left);
    }
    return check_rows(plan, round, s, header);
}
