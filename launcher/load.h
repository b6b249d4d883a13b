/* Loading a layer with the progress shown on a terminal. */
#ifndef WTN_LOAD_H
#define WTN_LOAD_H

#include "launcher/session.h"

/* witan_layer_load with the session's backend, tier and placement. Collective. */
witan_status_t wtn_load_layer(wtn_session_t *session, const wtn_session_options_t *options,
                              const char *model, int32_t layer_index, witan_layer_t **layer);

#endif
