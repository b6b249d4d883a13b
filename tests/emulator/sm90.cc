/* What sm_90 adds: mbarriers, bulk copies, matrix units fed from shared memory. */
#include "tests/emulator/block.h"

namespace emulator
{

void sm90_begin(block_t *block)
{
    (void)block;
}

bool sm90_land(block_t *block)
{
    (void)block;
    return false;
}

void sm90_end(block_t *block)
{
    (void)block;
}

} // namespace emulator
