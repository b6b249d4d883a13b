/* Pieces: what one source sends to one domain in one round, a manifest and tokens. */
#ifndef WTN_PIECE_H
#define WTN_PIECE_H

#include "dispatch/plan.h"

/* Where the manifest of source `s` lies in the window, its rows, and its tokens. */
char                 *wtn_piece_slot(const witan_plan_t *plan, const wtn_round_t *round, int32_t s);
const wtn_wire_row_t *wtn_piece_rows(const witan_plan_t *plan, const wtn_round_t *round, int32_t s);
char  *wtn_piece_tokens(const witan_plan_t *plan, const wtn_round_t *round, int32_t s);
size_t wtn_piece_manifest_bytes_max(const witan_plan_t *plan, int32_t s);

/* Write manifest and rows of a piece; returns the bytes. */
size_t wtn_piece_write(const witan_plan_t *plan, const wtn_piece_t *piece, int64_t index,
                       int32_t domain, char *out);

/* There is no piece of source `s` in this round. */
void wtn_piece_clear(const witan_plan_t *plan, const wtn_round_t *round, int32_t s);

/* The header in the slot of source `s`; false where it is not one of this step and round. */
bool wtn_piece_read(const witan_plan_t *plan, const wtn_round_t *round, int32_t s,
                    wtn_manifest_t *header);

/* A manifest of `bytes` has arrived: is it the one that must come, and does it keep to its quota?
 * WITAN_E_MISMATCH naming the rank. */
witan_status_t wtn_piece_check(const witan_plan_t *plan, const wtn_round_t *round, int32_t s,
                               size_t bytes, wtn_manifest_t *header);

#endif
