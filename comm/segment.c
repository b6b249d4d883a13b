#define _GNU_SOURCE /* memfd_create */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "comm/segment.h"
#include "core/error.h"
#include "core/util.h"

/* Before the memory: the token, on pages of its own. */
#define HEAD_BYTES ((size_t)2 << 20)

static witan_status_t map(wtn_segment_t *segment, int fd, size_t bytes)
{
    void *mapping = mmap(NULL, HEAD_BYTES + bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (mapping == MAP_FAILED) {
        return WTN_ERROR(WITAN_E_MEMORY, "shared memory: %zu bytes: %s", bytes, strerror(errno));
    }
    (void)madvise(mapping, HEAD_BYTES + bytes, MADV_HUGEPAGE); /* where the system allows it */
    segment->mapping = mapping;
    segment->memory  = (char *)mapping + HEAD_BYTES;
    segment->bytes   = bytes;
    return WITAN_OK;
}

witan_status_t wtn_segment_make(wtn_segment_t *segment, size_t bytes, wtn_segment_name_t *name)
{
    size_t         total;
    witan_status_t status;

    *segment = (wtn_segment_t){.fd = -1};
    *name    = (wtn_segment_name_t){.bytes = bytes, .process = getpid(), .fd = -1};
    if (!wtn_add(HEAD_BYTES, bytes, &total) || total > (size_t)INT64_MAX) {
        return WTN_ERROR(WITAN_E_MEMORY, "shared memory: %zu bytes", bytes);
    }
    segment->fd = memfd_create("witan", MFD_CLOEXEC);
    if (segment->fd < 0 || ftruncate(segment->fd, (off_t)total) != 0) {
        status = WTN_ERROR(WITAN_E_MEMORY, "shared memory: %zu bytes: %s", bytes, strerror(errno));
        goto fail;
    }
    WTN_TRY(map(segment, segment->fd, bytes));
    if (getrandom(name->token, sizeof(name->token), 0) != (ssize_t)sizeof(name->token)) {
        status = WTN_ERROR(WITAN_E_MEMORY, "shared memory: getrandom: %s", strerror(errno));
        goto fail;
    }
    memcpy(segment->mapping, name->token, sizeof(name->token));
    name->fd = segment->fd;
    return WITAN_OK;

fail:
    wtn_segment_free(segment);
    return status;
}

witan_status_t wtn_segment_find(wtn_segment_t *segment, const wtn_segment_name_t *name)
{
    char           path[64];
    off_t          bytes;
    int            fd;
    witan_status_t status;

    *segment = (wtn_segment_t){.fd = -1};
    (void)snprintf(path, sizeof(path), "/proc/%" PRId64 "/fd/%" PRId32, name->process, name->fd);
    fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) {
        return WTN_ERROR(WITAN_E_MEMORY, "shared memory: %s: %s", path, strerror(errno));
    }
    /* Where processes do not see each other's numbers, this may be anything. */
    bytes = lseek(fd, 0, SEEK_END);
    if (bytes < 0 || (uint64_t)bytes != name->bytes + HEAD_BYTES) {
        status = WTN_ERROR(WITAN_E_MEMORY, "shared memory: %s is another file", path);
        goto fail;
    }
    WTN_TRY(map(segment, fd, name->bytes));
    if (memcmp(segment->mapping, name->token, sizeof(name->token)) != 0) {
        wtn_segment_free(segment);
        status = WTN_ERROR(WITAN_E_MEMORY, "shared memory: %s is another segment", path);
    }

fail:
    (void)close(fd);
    return status;
}

void wtn_segment_settle(wtn_segment_t *segment)
{
    if (segment->mapping != NULL && segment->fd >= 0) {
        (void)close(segment->fd);
        segment->fd = -1;
    }
}

void wtn_segment_free(wtn_segment_t *segment)
{
    if (segment->mapping != NULL) {
        (void)munmap(segment->mapping, HEAD_BYTES + segment->bytes);
    }
    if (segment->fd > 0) { /* 0 of a segment never made: the program holds that stream open */
        (void)close(segment->fd);
    }
    *segment = (wtn_segment_t){.fd = -1};
}
