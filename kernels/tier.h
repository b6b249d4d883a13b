/* Kernel tiers: a backend's table of them, from which one is chosen once at run time. */
#ifndef WTN_TIER_H
#define WTN_TIER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <witan/types.h>

#define WTN_DTYPE_COUNT 3

struct wtn_gemm;         /* kernels/gemm/gemm.h */
struct wtn_ffn_epilogue; /* kernels/ffn/ffn.h */
struct wtn_cuda_gemm;    /* kernels/gemm/gemm_cuda.h */

/* On the host every slot but cuda_gemm is filled: a tier that has nothing better holds the function
 * of the tier before it. On a device only cuda_gemm is, for the dtypes the tier serves. */
typedef struct wtn_tier {
    const char *name;
    bool (*probe)(char *reason, size_t reason_bytes);
    const struct wtn_gemm         *gemm[WTN_DTYPE_COUNT]; /* by witan_dtype_t */
    const struct wtn_ffn_epilogue *epilogue[WTN_DTYPE_COUNT];
    const struct wtn_cuda_gemm    *cuda_gemm[WTN_DTYPE_COUNT];
    /* Multiply-adds in registers only: `rounds` rounds; the value is the FLOPs done. */
    double (*peak[WTN_DTYPE_COUNT])(int64_t rounds);
} wtn_tier_t;

/* All tiers of the host from the plainest to the fastest; ends with NULL. */
extern const wtn_tier_t *const wtn_tiers[];

const char *wtn_tier_name(const wtn_tier_t *tier);

/* Can this machine run it, and if not, why. */
bool wtn_tier_probe(const wtn_tier_t *tier, char *reason, size_t reason_bytes);

/* Has a backend's table (NULL: none built in) a tier of this name; it need not run here. */
bool wtn_tier_is_known(const wtn_tier_t *const *tiers, const char *name);

/* WITAN_E_ARGUMENT naming the known tiers where `name`, or with "auto" what WITAN_KERNEL_TIER says,
 * is none of them. */
witan_status_t wtn_tier_check(const wtn_tier_t *const *tiers, const char *name);

/* Find a tier of a backend's table by name; "auto": WITAN_KERNEL_TIER if set, else the fastest that
 * serves `dtype` and whose probe passes. WITAN_E_ARGUMENT for an unknown name; WITAN_E_UNSUPPORTED
 * for one that does not serve `dtype`, or with the probe's reason. */
witan_status_t wtn_tier_choose(const wtn_tier_t *const *tiers, const char *name,
                               witan_dtype_t dtype, const wtn_tier_t **out);

/* The same of the host's tiers, which serve every dtype. */
witan_status_t wtn_tier_select(const char *name, const wtn_tier_t **out);

#endif
