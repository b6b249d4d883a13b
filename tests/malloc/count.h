/* Counts allocations and frees made by objects that were linked with --wrap. */
#ifndef TEST_COUNT_H
#define TEST_COUNT_H

#include <stdint.h>

/* Start from zero; calls of any thread count until count_stop, which returns their number. */
void    count_start(void);
int64_t count_stop(void);

/* The first function counted since count_start; "" if there was none. */
const char *count_first(void);

#endif
