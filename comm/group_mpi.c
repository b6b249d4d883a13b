/* Groups from an MPI communicator. */
#include <witan/witan_mpi.h>

#include "comm/group.h"
#include "comm/mpi.h"
#include "core/error.h"

witan_status_t witan_group_create_mpi(witan_group_t **out, MPI_Comm comm,
                                      const witan_group_config_t *config)
{
    witan_group_config_t resolved, fallback;
    witan_group_t       *group = NULL;
    witan_status_t       status, first;
    char                 text[WTN_ERROR_TEXT_BYTES] = "";

    /* A rank whose arguments are no good still takes part until its peers know. */
    if (out == NULL) {
        first = WTN_ERROR(WITAN_E_ARGUMENT, "group: out is NULL");
    } else {
        *out  = NULL;
        first = wtn_group_new(&group, config, &resolved);
    }
    if (first != WITAN_OK) {
        (void)__builtin_snprintf(text, sizeof(text), "%s", witan_last_error());
        witan_group_config_init(&fallback);
        fallback.timeout_ns   = 60000000000u;
        fallback.thread_count = 1;
        status                = wtn_group_new(&group, &fallback, &resolved);
        if (status != WITAN_OK) {
            return status;
        }
    }
    WTN_TRY(wtn_mpi_open(&group->comm, comm));
    if (first != WITAN_OK) {
        first = WTN_ERROR(first, "%s", text);
    }
    WTN_TRY(wtn_agree(&group->comm, "group", first, NULL, 0));
    WTN_TRY(wtn_group_setup(group, &resolved));
    *out = group;
    return WITAN_OK;

fail:
    witan_group_destroy(group);
    return status;
}
