/* A device made of the host: the host's kernels, the references of the device's, streams that are
 * always passed, and an exchange over the control comm. With it the stream engine runs anywhere,
 * and must give the bits of the host's rounds. */
#ifndef TEST_SOFTWARE_H
#define TEST_SOFTWARE_H

#include "dispatch/layer.h"

/* As in graph.h. */
int device_count(void);

/* Steps of this host layer go through the stream engine from now on; before its first plan. */
void software_take(witan_layer_t *layer);

#endif
