/* What tests need of CUDA itself; plain C outside. */
#ifndef TEST_GRAPH_H
#define TEST_GRAPH_H

/* Devices this process sees. */
int device_count(void);
/* The one that is current for this thread. */
int  device_current(void);
void device_make_current(int device);

void *stream_make(void);
void  stream_free(void *stream);

/* Between them everything queued on `stream` is captured. */
void  capture_begin(void *stream);
void *capture_end(void *stream);
/* Queue what was captured. */
void graph_replay(void *graph, void *stream);
void graph_free(void *graph);

#endif
