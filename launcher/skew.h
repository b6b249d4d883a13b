/* Routing made up for measurements and for the planner: who sends which token to which experts.
 *
 * One endless stream of tokens, each with K different experts (a trace: as it has them). Rank r of
 * N with T tokens takes tokens [r * T, (r + 1) * T). A token depends on the seed and its index
 * only, so any rank can regenerate what any other one routes.
 *
 *   uniform    every expert is as likely as any other
 *   zipf:S     the j-th most wanted expert has the weight j^-S (S >= 0); which one that is, the
 *              seed decides. The K of a token are drawn one after another without putting back
 *   hot:E      every token goes to expert E, its other K - 1 are uniform
 *   balanced   the experts in turns, in an order of the seed: over any run of tokens the counts of
 *              two experts differ by at most 1
 *   zero-rank  uniform, but the last of several ranks has no tokens
 *   trace:FILE tokens of a file, from the first again behind the last: a safetensors file with the
 *              I32 tensor `topk_ids` [T, K] (witan run --routing-out), or text, a token per line, K
 *              integers separated by blanks. -1 is no expert */
#ifndef WTN_SKEW_H
#define WTN_SKEW_H

#include <stdint.h>

#include <witan/status.h>

typedef struct wtn_skew wtn_skew_t;

/* Is `text` one of the words above? Reads no file. WITAN_E_ARGUMENT names `option`. */
witan_status_t wtn_skew_check(const char *option, const char *text);

/* `text` of --skew: WITAN_E_ARGUMENT naming it; WITAN_E_IO, WITAN_E_FORMAT for a trace, naming file
 * and place. 1 <= topk <= expert_count. Local. */
witan_status_t wtn_skew_open(wtn_skew_t **out, const char *text, int32_t expert_count, int32_t topk,
                             uint64_t seed);
void           wtn_skew_close(wtn_skew_t *skew); /* NULL is allowed */

/* ids [token_count, K] of tokens [token_begin, token_begin + token_count). */
void wtn_skew_fill(const wtn_skew_t *skew, int64_t token_begin, int64_t token_count, int32_t *ids);

/* Tokens of a rank where each shall have `token_count`: 0 for the last one under zero-rank. */
int64_t wtn_skew_token_count(const wtn_skew_t *skew, int32_t rank, int32_t rank_count,
                             int64_t token_count);

#endif
