#include <stdio.h>
#include <string.h>

#include "core/cpu.h"
#include "core/env.h"
#include "core/error.h"
#include "kernels/ffn/ffn.h"
#include "kernels/gemm/gemm.h"
#include "kernels/probe/probe.h"
#include "kernels/tier.h"

static bool probe_scalar(char *reason, size_t reason_bytes)
{
    (void)snprintf(reason, reason_bytes, "runs everywhere");
    return true;
}

#define GEMM(table)                                              \
    {                                                            \
        &table[WITAN_F32], &table[WITAN_F16], &table[WITAN_BF16] \
    }
#define EPILOGUE(table) GEMM(table)

static const wtn_tier_t tier_scalar = {
    .name     = "scalar",
    .probe    = probe_scalar,
    .gemm     = GEMM(wtn_gemm_ref),
    .epilogue = EPILOGUE(wtn_ffn_epilogue_ref),
    .peak     = {wtn_peak_scalar, wtn_peak_scalar, wtn_peak_scalar},
};

#ifdef __x86_64__

static bool report(bool found, const char *needs, char *reason, size_t reason_bytes)
{
    (void)snprintf(reason, reason_bytes, "the processor %s %s", found ? "has" : "lacks one of",
                   needs);
    return found;
}

/* __builtin_cpu_supports also asks whether the system saves the registers. */
static bool probe_avx2(char *reason, size_t reason_bytes)
{
    bool found =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && wtn_cpu_has_f16c();

    return report(found, "avx2, fma, f16c", reason, reason_bytes);
}

static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && wtn_cpu_has_f16c() &&
           __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

static bool probe_avx512(char *reason, size_t reason_bytes)
{
    return report(has_avx512(), "avx512f, bw, vl, dq", reason, reason_bytes);
}

static bool probe_avx512_bf16(char *reason, size_t reason_bytes)
{
    bool found = has_avx512() && __builtin_cpu_supports("avx512bf16");

    return report(found, "avx512f, bw, vl, dq, bf16", reason, reason_bytes);
}

static const wtn_tier_t tier_avx2 = {
    .name     = "avx2",
    .probe    = probe_avx2,
    .gemm     = GEMM(wtn_gemm_avx2),
    .epilogue = EPILOGUE(wtn_ffn_epilogue_avx2),
    .peak     = {wtn_peak_avx2, wtn_peak_avx2, wtn_peak_avx2},
};

static const wtn_tier_t tier_avx512 = {
    .name     = "avx512",
    .probe    = probe_avx512,
    .gemm     = GEMM(wtn_gemm_avx512),
    .epilogue = EPILOGUE(wtn_ffn_epilogue_avx512),
    .peak     = {wtn_peak_avx512, wtn_peak_avx512, wtn_peak_avx512},
};

static const wtn_tier_t tier_avx512_bf16 = {
    .name     = "avx512_bf16",
    .probe    = probe_avx512_bf16,
    .gemm     = {&wtn_gemm_avx512[WITAN_F32], &wtn_gemm_avx512[WITAN_F16], &wtn_gemm_avx512_bf16},
    .epilogue = {&wtn_ffn_epilogue_avx512[WITAN_F32], &wtn_ffn_epilogue_avx512[WITAN_F16],
                 &wtn_ffn_epilogue_avx512_bf16},
    .peak     = {wtn_peak_avx512, wtn_peak_avx512, wtn_peak_avx512_bf16},
};

const wtn_tier_t *const wtn_tiers[] = {&tier_scalar, &tier_avx2, &tier_avx512, &tier_avx512_bf16,
                                       NULL};

#else

const wtn_tier_t *const wtn_tiers[] = {&tier_scalar, NULL};

#endif

const char *wtn_tier_name(const wtn_tier_t *tier)
{
    return tier->name;
}

bool wtn_tier_probe(const wtn_tier_t *tier, char *reason, size_t reason_bytes)
{
    return tier->probe(reason, reason_bytes);
}

static bool serves(const wtn_tier_t *tier, witan_dtype_t dtype)
{
    return tier->gemm[dtype] != NULL || tier->cuda_gemm[dtype] != NULL;
}

static witan_status_t unknown(const wtn_tier_t *const *tiers, const char *source, const char *name)
{
    char   known[128] = "auto";
    size_t used       = strlen(known);

    for (int32_t i = 0; tiers[i] != NULL; i++) {
        int more = snprintf(known + used, sizeof(known) - used, ", %s", tiers[i]->name);

        used = (size_t)wtn_min_i64((int64_t)used + more, (int64_t)sizeof(known) - 1);
    }
    return WTN_ERROR(WITAN_E_ARGUMENT, "%s: expected one of %s, found '%s'", source, known, name);
}

static witan_status_t choose_fastest(const wtn_tier_t *const *tiers, witan_dtype_t dtype,
                                     const wtn_tier_t **out)
{
    char reason[128] = "";

    for (int32_t i = 0; tiers[i] != NULL; i++) {
        if (serves(tiers[i], dtype) && wtn_tier_probe(tiers[i], reason, sizeof(reason))) {
            *out = tiers[i];
        }
    }
    if (*out == NULL) {
        return WTN_ERROR(WITAN_E_UNSUPPORTED, "kernel tier: none for %s: %s",
                         witan_dtype_name(dtype), reason);
    }
    return WITAN_OK;
}

/* The name that "auto" stands for, and who gave it. */
static const char *resolve(const char *name, const char **source)
{
    *source = "kernel tier";
    if (strcmp(name, "auto") == 0) {
        *source = "WITAN_KERNEL_TIER";
        name    = wtn_env_text(WTN_ENV_WITAN_KERNEL_TIER);
    }
    return name;
}

bool wtn_tier_is_known(const wtn_tier_t *const *tiers, const char *name)
{
    bool known = false;

    for (int32_t i = 0; tiers != NULL && tiers[i] != NULL; i++) {
        known = known || strcmp(name, tiers[i]->name) == 0;
    }
    return known;
}

witan_status_t wtn_tier_check(const wtn_tier_t *const *tiers, const char *name)
{
    const char *source;

    name = resolve(name, &source);
    return tiers == NULL || strcmp(name, "auto") == 0 || wtn_tier_is_known(tiers, name)
               ? WITAN_OK
               : unknown(tiers, source, name);
}

witan_status_t wtn_tier_choose(const wtn_tier_t *const *tiers, const char *name,
                               witan_dtype_t dtype, const wtn_tier_t **out)
{
    const char *source;
    char        reason[128];

    *out = NULL;
    name = resolve(name, &source);
    if (strcmp(name, "auto") == 0) {
        return choose_fastest(tiers, dtype, out);
    }
    for (int32_t i = 0; tiers[i] != NULL; i++) {
        if (strcmp(name, tiers[i]->name) != 0) {
            continue;
        }
        if (!serves(tiers[i], dtype)) {
            return WTN_ERROR(WITAN_E_UNSUPPORTED, "%s: %s: not for %s", source, name,
                             witan_dtype_name(dtype));
        }
        if (!wtn_tier_probe(tiers[i], reason, sizeof(reason))) {
            return WTN_ERROR(WITAN_E_UNSUPPORTED, "%s: %s: %s", source, name, reason);
        }
        *out = tiers[i];
        return WITAN_OK;
    }
    return unknown(tiers, source, name);
}

witan_status_t wtn_tier_select(const char *name, const wtn_tier_t **out)
{
    return wtn_tier_choose(wtn_tiers, name, WITAN_F32, out);
}
