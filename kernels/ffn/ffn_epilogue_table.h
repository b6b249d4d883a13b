/* Template: a tier's table of epilogues from its up() and down(), included once at the end of a
 * file. Before including define EPILOGUE_TABLE, the name of the table. */

static void up_f32(const wtn_epilogue_up_args_t *args)
{
    up(args, WITAN_F32);
}

static void down_f32(const wtn_epilogue_down_args_t *args)
{
    down(args, WITAN_F32);
}

static void up_f16(const wtn_epilogue_up_args_t *args)
{
    up(args, WITAN_F16);
}

static void down_f16(const wtn_epilogue_down_args_t *args)
{
    down(args, WITAN_F16);
}

static void up_bf16(const wtn_epilogue_up_args_t *args)
{
    up(args, WITAN_BF16);
}

static void down_bf16(const wtn_epilogue_down_args_t *args)
{
    down(args, WITAN_BF16);
}

const wtn_ffn_epilogue_t EPILOGUE_TABLE[] = {
    [WITAN_F32]  = {up_f32, down_f32},
    [WITAN_F16]  = {up_f16, down_f16},
    [WITAN_BF16] = {up_bf16, down_bf16},
};

#undef EPILOGUE_TABLE
