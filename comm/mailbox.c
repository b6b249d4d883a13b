#include <stdlib.h>

#include "comm/mailbox.h"
#include "core/error.h"

static witan_status_t listen_to(wtn_mailbox_t *box, int32_t index, int32_t peer)
{
    return wtn_recv_post(box->comm, &box->recvs[index], peer, box->channel, box->tag,
                         wtn_mailbox_letter(box, index), box->bytes, true);
}

witan_status_t wtn_mailbox_open(wtn_mailbox_t *box, const int32_t *peers, int32_t peer_count)
{
    size_t         count = (size_t)peer_count + 1;
    witan_status_t status;

    box->recvs   = calloc(count, sizeof(*box->recvs));
    box->sends   = calloc(count, sizeof(*box->sends));
    box->letters = calloc(count, box->bytes);
    if (box->recvs == NULL || box->sends == NULL || box->letters == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%s: %zu letters of %zu bytes", box->name, count,
                         box->bytes);
    }
    for (int32_t i = 0; i < peer_count; i++) {
        if (peers[i] == box->comm->rank) {
            continue;
        }
        WTN_TRY(listen_to(box, box->peer_count, peers[i]));
        box->peer_count++;
    }
    return WITAN_OK;

fail:
    return status;
}

witan_status_t wtn_mailbox_listen(wtn_mailbox_t *box, int32_t index)
{
    return listen_to(box, index, box->recvs[index].peer);
}

void wtn_mailbox_send(wtn_mailbox_t *box, int32_t index, const void *letter)
{
    (void)wtn_cancel(box->comm, &box->sends[index], 1, &box->remains);
    (void)wtn_send_post(box->comm, &box->sends[index], box->recvs[index].peer, box->channel,
                        box->tag, letter, box->bytes);
}

void wtn_mailbox_close(wtn_mailbox_t *box, void (*release)(void *owner), void *owner)
{
    size_t count = (size_t)box->peer_count; /* 0 where an array is missing */

    (void)wtn_cancel(box->comm, box->sends, count, &box->remains);
    (void)wtn_cancel(box->comm, box->recvs, count, &box->remains);
    free(box->recvs);
    free(box->sends);
    wtn_release(box->comm, &box->remains, release, owner);
}
