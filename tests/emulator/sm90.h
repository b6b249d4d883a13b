/* What sm_90 adds, inside the emulator: sm90.cc, tensor_map.cc, wgmma.cc. */
#ifndef WTN_EMULATOR_SM90_H
#define WTN_EMULATOR_SM90_H

#include <map>
#include <stdint.h>
#include <vector>

#include "tests/emulator/block.h"

namespace emulator
{

struct mbarrier_t {
    uint32_t count;   /* arrivals of a phase */
    uint32_t pending; /* those still missing */
    int64_t  bytes;   /* expected and not yet come; below 0: come and not yet expected */
    uint32_t phase;   /* its parity */
};

/* What completes later: a copy of a box, or an arrival after a thread's cp.async. */
struct landing_t {
    uint32_t    barrier;
    const void *map; /* NULL: an arrival */
    uint32_t    to;
    int32_t     x, y;
    thread_t   *thread;
};

/* A bulk store that has not yet read its shared memory. */
struct bulk_t {
    char    *to;
    uint32_t from, bytes;
};

/* One wgmma of a lane, queued. */
struct wgmma_t {
    float   *d;
    uint64_t a, b;
    int      count;
    bool     bf16, add;
    uint64_t fenced; /* when the lane had fenced last */
};

/* 16 bytes of shared memory that cp.async wrote. */
struct written_t {
    uint32_t writer; /* thread */
    uint64_t time;   /* 0: never */
};

struct matrix_queue_t { /* of a thread */
    std::vector<wgmma_t> queued;
    std::vector<size_t>  groups; /* products of each committed group, oldest first */
    bool                 fenced;
};

struct sm90_t {
    std::map<uint32_t, mbarrier_t>   barriers; /* by shared address */
    std::vector<landing_t>           landings;
    std::vector<std::vector<bulk_t>> bulks;     /* by thread */
    std::vector<matrix_queue_t>      matrices;  /* by thread */
    std::vector<uint32_t>            registers; /* of a thread, by warp */
    uint32_t                         pool;      /* of the block */
    std::vector<written_t>           written;   /* by chunk of 16 bytes */
    std::vector<uint64_t>            fenced;    /* when, by thread */
    uint64_t                         time;      /* counts writes and fences */
    uint32_t                         tests;     /* mbarrier tests in a row that said no */
};

/* tensor_map.cc: bytes of a box; copying it into the block's shared memory. */
uint32_t box_bytes(const void *map);
void     box_check(const char *wrapper, place_t place, const void *map, uint32_t to, int32_t x);
void     box_copy(block_t *block, const void *map, uint32_t to, int32_t x, int32_t y);

} // namespace emulator

#endif
