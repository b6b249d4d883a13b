/* Memory shared by ranks of one machine: one rank makes it, the others find it through its
 * process. It has no name in a file system, so a killed job leaves nothing behind. */
#ifndef WTN_SEGMENT_H
#define WTN_SEGMENT_H

#include <stddef.h>
#include <stdint.h>

#include <witan/status.h>

typedef struct wtn_segment {
    void  *mapping; /* NULL: none */
    void  *memory;  /* page-aligned; zero until written */
    size_t bytes;   /* at `memory` */
    int    fd;      /* of the maker; -1 */
} wtn_segment_t;

/* What the maker tells the others. */
typedef struct wtn_segment_name {
    uint64_t token[2]; /* stands in the segment too: is it the one meant? */
    uint64_t bytes;
    int64_t  process;
    int32_t  fd;
    int32_t  unused;
} wtn_segment_name_t;

/* Make a segment; memory is taken as it is written. Local. WITAN_E_MEMORY with the reason. */
witan_status_t wtn_segment_make(wtn_segment_t *segment, size_t bytes, wtn_segment_name_t *name);

/* Map one that another process made and still holds open. Local. WITAN_E_MEMORY with the reason. */
witan_status_t wtn_segment_find(wtn_segment_t *segment, const wtn_segment_name_t *name);

/* All who want it have found it: the maker needs no longer hold it open. */
void wtn_segment_settle(wtn_segment_t *segment);

/* Unmap. The others keep theirs. {0} is allowed. */
void wtn_segment_free(wtn_segment_t *segment);

#endif
