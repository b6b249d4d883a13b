/* Steps on tokens in ordinary memory: where the layer computes elsewhere, they are copied there and
 * the result back. */
#ifndef WTN_STAGING_H
#define WTN_STAGING_H

#include <witan/witan.h>

typedef struct wtn_staging {
    witan_layer_t *layer;
    size_t         row_bytes;
    void          *hidden, *output; /* of the backend; NULL: ordinary memory will do */
} wtn_staging_t;

/* Room for steps of at most `token_count_max` tokens. Local. */
witan_status_t wtn_staging_make(wtn_staging_t *staging, witan_layer_t *layer,
                                int64_t token_count_max);
void           wtn_staging_free(wtn_staging_t *staging);

/* witan_forward and witan_plan_wait: `output` is complete. Collective. */
witan_status_t wtn_staging_forward(const wtn_staging_t *staging, witan_plan_t *plan,
                                   int64_t token_count, const void *hidden, void *output);

#endif
