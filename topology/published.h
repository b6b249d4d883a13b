/* Published times and bandwidths of dispatch and combine, each with a floor: what its own bytes
 * need at the rates of the data sheets. */
#ifndef WTN_PUBLISHED_H
#define WTN_PUBLISHED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What of a token travels once. */
typedef enum wtn_published_unit {
    WTN_PUBLISHED_ROW,  /* every (token, k) */
    WTN_PUBLISHED_RANK, /* a token for each rank it needs */
    WTN_PUBLISHED_NODE, /* a token for each node it needs */
} wtn_published_unit_t;

typedef struct wtn_published {
    const char          *system, *machine, *step; /* step: "dispatch" or "combine" */
    int32_t              ep, ranks_per_node;
    int64_t              token_count; /* of a rank */
    wtn_published_unit_t unit;
    double               unit_bytes;            /* of what travels once */
    double               inside_rate, net_rate; /* bytes/s of a rank in one direction */
    double               seconds;               /* as published; 0: it says a bandwidth */
    double bandwidth; /* bytes/s as published: logical, what stays on the rank is counted */
} wtn_published_t;

extern const wtn_published_t wtn_published[];
extern const size_t          wtn_published_count;

#define WTN_PUBLISHED_EXPERTS 256
#define WTN_PUBLISHED_TOPK    8

typedef struct wtn_published_floor {
    double units;         /* of a token, on average, uniform routing */
    double logical_bytes; /* of a rank, what stays on it counted */
    double published;     /* s */
    double floor;         /* s: the bytes that leave a rank's ports over their rates */
    double once;          /* s: the same if a token crossed each link once */
} wtn_published_floor_t;

wtn_published_floor_t wtn_published_floor(const wtn_published_t *figure);

#endif
