#include "kernels/combine/combine.h"

void wtn_combine_ref(const wtn_combine_args_t *args)
{
    for (int64_t t = 0; t < args->token_count; t++) {
        for (int64_t h = 0; h < args->hidden_size; h++) {
            wtn_store_float(args->out, args->out_dtype, (size_t)(t * args->hidden_size + h),
                            wtn_combine_element(args, t, h));
        }
    }
}

void wtn_reduce_ref(const wtn_reduce_args_t *args)
{
    for (int64_t i = 0; i < args->count; i++) {
        wtn_store_float(args->out, args->out_dtype, (size_t)i, wtn_reduce_element(args, i));
    }
}
