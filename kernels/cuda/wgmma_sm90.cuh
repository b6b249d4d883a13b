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
#define WTN_R24 \
    WTN_R16 ", " \
    "%16, %17, %18, %19, %20, %21, %22, %23"
#define WTN_R32 \
    WTN_R24 ", " \
    "%24, %25, %26, %27, %28, %29, %30, %31"
#define WTN_R40 \
    WTN_R32 ", " \
    "%32, %33, %34, %35, %36, %37, %38, %39"
#define WTN_R48 \
    WTN_R40 ", " \
    "%40, %41, %42, %43, %44, %45, %46, %47"
#define WTN_R56 \
    WTN_R48 ", " \
    "%48, %49, %50, %51, %52, %53, %54, %55"
#define WTN_R64 \
    WTN_R56 ", " \
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

#define WTN_D8(io) \
    io(d[0]), io(d[1]), io(d[2]), io(d[3]), \
    io(d[4]), io(d[5]), io(d[6]), io(d[7])
#define WTN_D16(io) \
    WTN_D8(io), \
    io(d[8]), io(d[9]), io(d[10]), io(d[11]), \
    io(d[12]), io(d[13]), io(d[14]), io(d[15])
#define WTN_D24(io) \
    WTN_D16(io), \
    io(d[16]), io(d[17]), io(d[18]), io(d[19]), \
    io(d[20]), io(d[21]), io(d[22]), io(d[23])
#define WTN_D32(io) \
    WTN_D24(io), \
    io(d[24]), io(d[25]), io(d[26]), io(d[27]), \
    io(d[28]), io(d[29]), io(d[30]), io(d[31])
#define WTN_D40(io) \
    WTN_D32(io), \
    io(d[32]), io(d[33]), io(d[34]), io(d[35]), \
    io(d[36]), io(d[37]), io(d[38]), io(d[39])
#define WTN_D48(io) \
    WTN_D40(io), \
    io(d[40]), io(d[41]), io(d[42]), io(d[43]), \
    io(d[44]), io(d[45]), io(d[46]), io(d[47])
#define WTN_D56(io) \
    WTN_D48(io), \
    io(d[48]), io(d[49]), io(d[50]), io(d[51]), \
    io(d[52]), io(d[53]), io(d[54]), io(d[55])
#define WTN_D64(io) \
    WTN_D56(io), \
    io(d[56]), io(d[57]), io(d[58]), io(d[59]), \
    io(d[60]), io(d[61]), io(d[62]), io(d[63])
#define WTN_D96(io) \
    WTN_D64(io), \
    io(d[64]), io(d[65]), io(d[66]), io(d[67]), \
    io(d[68]), io(d[69]), io(d[70]), io(d[71]), \
    io(d[72]), io(d[73]), io(d[74]), io(d[75]), \
    io(d[76]), io(d[77]), io(d[78]), io(d[79]), \
    io(d[80]), io(d[81]), io(d[82]), io(d[83]), \
    io(d[84]), io(d[85]), io(d[86]), io(d[87]), \
    io(d[88]), io(d[89]), io(d[90]), io(d[91]), \
    io(d[92]), io(d[93]), io(d[94]), io(d[95])
#define WTN_D120(io) \
    WTN_D96(io), \
    io(d[96]), io(d[97]), io(d[98]), io(d[99]), \
    io(d[100]), io(d[101]), io(d[102]), io(d[103]), \
    io(d[104]), io(d[105]), io(d[106]), io(d[107]), \
    io(d[108]), io(d[109]), io(d[110]), io(d[111]), \
    io(d[112]), io(d[113]), io(d[114]), io(d[115]), \
    io(d[116]), io(d[117]), io(d[118]), io(d[119])
#define WTN_D128(io) \
    WTN_D120(io), \
    io(d[120]), io(d[121]), io(d[122]), io(d[123]), \
    io(d[124]), io(d[125]), io(d[126]), io(d[127])

#define WTN_WGMMA(columns, type, count, a_at, b_at, io, add)                                 \
    asm volatile("{\n"                                                                       \
                 ".reg .pred p;\n"                                                           \
                 "setp.ne.b32 p, " add ", 0;\n"                                              \
                 "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." type                \
                 " {" WTN_R##count "}, %" #a_at ", %" #b_at ", p, 1, 1, 0, 0;\n"             \
                 "}"                                                                         \
                 : WTN_D##count(io)                                                          \
                 : "l"(a), "l"(b))

#define WTN_WGMMA_COLUMNS(columns, count, a_at, b_at)                                        \
    template <bool bf16>                                                                     \
    WTN_DEVICE void wtn_wgmma(float (&d)[count], uint64_t a, uint64_t b)                     \
    {                                                                                        \
        if (bf16) {                                                                          \
            WTN_WGMMA(columns, "bf16.bf16", count, a_at, b_at, "+f", "1");                   \
        } else {                                                                             \
            WTN_WGMMA(columns, "f16.f16", count, a_at, b_at, "+f", "1");                     \
        }                                                                                    \
    }                                                                                        \
    template <bool bf16>                                                                     \
    WTN_DEVICE void wtn_wgmma_first(float (&d)[count], uint64_t a, uint64_t b)               \
    {                                                                                        \
        if (bf16) {                                                                          \
            WTN_WGMMA(columns, "bf16.bf16", count, a_at, b_at, "=f", "0");                   \
        } else {                                                                             \
            WTN_WGMMA(columns, "f16.f16", count, a_at, b_at, "=f", "0");                     \
        }                                                                                    \
    }
/* clang-format on */

/* wtn_wgmma<bf16>(d, a, b): d [64][N] of the warpgroup += a [64][16] * b [N][16]^T;
 * wtn_wgmma_first: = that, whatever d was. N is twice the length of d. Lane l of warp w of the warpgroup holds in
 * d[4 j + 2 i + c] row 16 w + l / 4 + 8 i, column 8 j + 2 (l % 4) + c. */
WTN_WGMMA_COLUMNS(256, 128, 128, 129)
WTN_WGMMA_COLUMNS(192, 96, 96, 97)
WTN_WGMMA_COLUMNS(128, 64, 64, 65)
WTN_WGMMA_COLUMNS(112, 56, 56, 57)
WTN_WGMMA_COLUMNS(96, 48, 48, 49)
WTN_WGMMA_COLUMNS(80, 40, 40, 41)
WTN_WGMMA_COLUMNS(64, 32, 32, 33)
WTN_WGMMA_COLUMNS(48, 24, 24, 25)
WTN_WGMMA_COLUMNS(32, 16, 16, 17)
WTN_WGMMA_COLUMNS(16, 8, 8, 9)

#undef WTN_WGMMA_COLUMNS
#undef WTN_WGMMA

#endif
