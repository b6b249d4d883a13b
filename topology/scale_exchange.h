/* The messages of a step, for simulate.h: what dispatch/round.c sends, by the counts of a load. */
#ifndef WTN_SCALE_EXCHANGE_H
#define WTN_SCALE_EXCHANGE_H

#include "topology/scale_model.h"

typedef enum wtn_scale_direction {
    WTN_SCALE_DISPATCH, /* manifests and tokens */
    WTN_SCALE_RETURN,   /* rows, or sums of rows */
} wtn_scale_direction_t;

/* The context of an exchange's messages. */
typedef struct wtn_scale_messages {
    const wtn_scale_machine_t *machine;
    const wtn_scale_shape_t   *shape;
    const wtn_scale_mode_t    *mode;
    const wtn_scale_load_t    *load;
    wtn_scale_direction_t      direction;
    double                     share; /* of the bytes: 1 / rounds */
} wtn_scale_messages_t;

/* As many ranks as make whole groups and whole nodes; all others do the same again. */
wtn_fabric_t wtn_scale_fabric(const wtn_scale_machine_t *machine, const wtn_scale_mode_t *mode);

wtn_exchange_t wtn_scale_exchange(const wtn_scale_messages_t *messages, const wtn_fabric_t *fabric);

/* Add to work[ranks of the fabric] the seconds that processors move the messages of `rounds`
 * rounds; nothing where devices do it. */
void wtn_scale_exchange_work(const wtn_scale_messages_t *messages, const wtn_exchange_t *exchange,
                             double rounds, double *work);

#endif
