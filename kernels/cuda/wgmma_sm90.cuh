/* wgmma.mma_async.sync.aligned.m64nNk16.f32.{bf16,f16} for the N in use; included by
 * device_sm90.cuh. The instruction wants every register of the accumulator named: R are the
 * numbers of its operands in the text, D the operands. */
#ifndef WTN_WGMMA_SM90_CUH
#define WTN_WGMMA_SM90_CUH

/* clang-format off */
#define WTN_R8 \
    "%0, %1, %2, %3, %4, %5, %6, %7"
#define WTN_R16 \
    WTN_R8 ", " \
    "%8, %9, %10, %11, %12, %13, %14, %15"
#define WTN_R32 \
    WTN_R16 ", " \
    "%16, %17, %18, %19, %20, %21, %22, %23, " \
    "%24, %25, %26, %27, %28, %29, %30, %31"
#define WTN_R64 \
    WTN_R32 ", " \
    "%32, %33, %34, %35, %36, %37, %38, %39, " \
    "%40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, " \
    "%56, %57, %58, %59, %60, %61, %62, %63"
#define WTN_R96 \
    WTN_R64 ", " \
    "%64, %65, %66, %67, %68, %69, %70, %71, " \
    "%72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, " \
    "%88, %89, %90, %91, %92, %93, %94, %95"
#define WTN_R120 \
    WTN_R96 ", " \
    "%96, %97, %98, %99, %100, %101, %102, %103, " \
    "%104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119"
#define WTN_R128 \
    WTN_R120 ", " \
    "%120, %121, %122, %123, %124, %125, %126, %127"

#define WTN_D8 \
    "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), \
    "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define WTN_D16 \
    WTN_D8, \
    "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), \
    "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define WTN_D32 \
    WTN_D16, \
    "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), \
    "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), \
    "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), \
    "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define WTN_D64 \
    WTN_D32, \
    "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), \
    "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), \
    "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), \
    "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), \
    "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), \
    "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), \
    "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), \
    "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define WTN_D96 \
    WTN_D64, \
    "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), \
    "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]), \
    "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), \
    "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]), \
    "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), \
    "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]), \
    "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), \
    "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
#define WTN_D120 \
    WTN_D96, \
    "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), \
    "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]), \
    "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), \
    "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]), \
    "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), \
    "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119])
#define WTN_D128 \
    WTN_D120, \
    "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), \
    "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])

#define WTN_WGMMA(columns, type, count, a_at, b_at, add_at)                                  \
    asm volatile("{\n"                                                                       \
                 ".reg .pred p;\n"                                                           \
                 "setp.ne.b32 p, %" #add_at ", 0;\n"                                         \
                 "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." type                \
                 " {" WTN_R##count "}, %" #a_at ", %" #b_at ", p, 1, 1, 0, 0;\n"             \
                 "}"                                                                         \
                 : WTN_D##count                                                              \
                 : "l"(a), "l"(b), "r"((uint32_t)add))

#define WTN_WGMMA_COLUMNS(columns, count, a_at, b_at, add_at)                                \
    template <bool bf16>                                                                     \
    WTN_DEVICE void wtn_wgmma(float (&d)[count], uint64_t a, uint64_t b, bool add)           \
    {                                                                                        \
        if (bf16) {                                                                          \
            WTN_WGMMA(columns, "bf16.bf16", count, a_at, b_at, add_at);                      \
        } else {                                                                             \
            WTN_WGMMA(columns, "f16.f16", count, a_at, b_at, add_at);                        \
        }                                                                                    \
    }
/* clang-format on */

/* wtn_wgmma<bf16>(d, a, b, add): d [64][N] of the warpgroup = a [64][16] * b [N][16]^T, + d where
 * `add`. N is twice the length of d. Lane l of warp w of the warpgroup holds in d[4 j + 2 i + c]
 * row 16 w + l / 4 + 8 i, column 8 j + 2 (l % 4) + c. */
WTN_WGMMA_COLUMNS(256, 128, 128, 129, 130)
WTN_WGMMA_COLUMNS(240, 120, 120, 121, 122)
WTN_WGMMA_COLUMNS(192, 96, 96, 97, 98)
WTN_WGMMA_COLUMNS(128, 64, 64, 65, 66)
WTN_WGMMA_COLUMNS(64, 32, 32, 33, 34)
WTN_WGMMA_COLUMNS(32, 16, 16, 17, 18)
WTN_WGMMA_COLUMNS(16, 8, 8, 9, 10)

#undef WTN_WGMMA_COLUMNS
#undef WTN_WGMMA

#endif
