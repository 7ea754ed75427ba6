/* Preloaded into a program: the n-th change of a file below a folder fails, whichever library makes it.

   cc -shared -fPIC -O1 -o failing_disk.so failing_disk.c -ldl */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

struct disk {
    long count, at;
    int armed, error, shorten, lasting, log;
    char folder[1024];
};
static struct disk *disk; /* shared with all processes that are forked */

__attribute__((constructor)) static void begin(void) {
    disk = mmap(NULL, sizeof *disk, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

/* From here on changes below `folder` are counted from 0, and written to `log`, if that is no -1, as "operation path".
   That with the number `at` fails: with `error`, or by writing half if it is to be shortened. A disk that is full
   (`lasting`) fails all later writes too. */
void failing_disk(const char *folder, long at, int error, int shorten, int lasting, int log) {
    strncpy(disk->folder, folder, sizeof disk->folder - 1);
    disk->count = 0, disk->at = at, disk->error = error, disk->shorten = shorten, disk->lasting = lasting;
    disk->log = log, disk->armed = 1;
}

void sound_disk(void) { disk->armed = 0; }

enum outcome { SOUND, FAILS, HALF };

static enum outcome next(const char *operation, const char *path, int writes) {
    if (disk == MAP_FAILED || !disk || !disk->armed || strncmp(path, disk->folder, strlen(disk->folder)))
        return SOUND;
    const char *name = strrchr(path, '/');
    if (name && !strncmp(name, "/log", 4)) /* what the program says */
        return SOUND;
    long number = __atomic_fetch_add(&disk->count, 1, __ATOMIC_SEQ_CST);
    if (disk->log >= 0) {
        char line[1400];
        int length = snprintf(line, sizeof line, "%s %s\n", operation, path);
        syscall(SYS_write, disk->log, line, length);
    }
    if (disk->at < 0 || number < disk->at || (number > disk->at && !(disk->lasting && writes)))
        return SOUND;
    if (number == disk->at && writes && (disk->shorten || disk->lasting))
        return HALF;
    if (disk->shorten)
        return SOUND;
    errno = disk->error;
    return FAILS;
}

static enum outcome of_descriptor(const char *operation, int descriptor, int writes) {
    char link[64], path[1100];
    if (!disk || !disk->armed)
        return SOUND;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    long size = syscall(SYS_readlink, link, path, sizeof path - 1);
    if (size < 0)
        return SOUND;
    path[size] = 0;
    return next(operation, path, writes);
}

#define OWN(type, name, ...) \
    static type (*own)(__VA_ARGS__); \
    if (!own) \
        own = dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t size) {
    OWN(ssize_t, write, int, const void *, size_t);
    enum outcome outcome = of_descriptor("write", fd, 1);
    return outcome == FAILS ? -1 : own(fd, data, outcome == HALF && size > 1 ? size / 2 : size);
}

#define PWRITE(name, offset_type) \
    ssize_t name(int fd, const void *data, size_t size, offset_type offset) { \
        OWN(ssize_t, name, int, const void *, size_t, offset_type); \
        enum outcome outcome = of_descriptor("write", fd, 1); \
        return outcome == FAILS ? -1 : own(fd, data, outcome == HALF && size > 1 ? size / 2 : size, offset); \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int count) {
    OWN(ssize_t, writev, int, const struct iovec *, int);
    enum outcome outcome = of_descriptor("write", fd, 1);
    if (outcome == HALF) {
        struct iovec half = {parts[0].iov_base, parts[0].iov_len > 1 ? parts[0].iov_len / 2 : parts[0].iov_len};
        return own(fd, &half, 1);
    }
    return outcome == FAILS ? -1 : own(fd, parts, count);
}

ssize_t sendfile(int to, int from, off_t *offset, size_t size) {
    OWN(ssize_t, sendfile, int, int, off_t *, size_t);
    enum outcome outcome = of_descriptor("write", to, 1);
    return outcome == FAILS ? -1 : own(to, from, offset, outcome == HALF && size > 1 ? size / 2 : size);
}

ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *there, size_t size, unsigned flags) {
    OWN(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned);
    enum outcome outcome = of_descriptor("write", to, 1);
    return outcome == FAILS ? -1 : own(from, at, to, there, outcome == HALF && size > 1 ? size / 2 : size, flags);
}

#define OF_DESCRIPTOR(name) \
    int name(int fd) { \
        OWN(int, name, int); \
        return of_descriptor("fsync", fd, 0) == FAILS ? -1 : own(fd); \
    }
OF_DESCRIPTOR(fsync)
OF_DESCRIPTOR(fdatasync)

int ftruncate(int fd, off_t size) {
    OWN(int, ftruncate, int, off_t);
    return of_descriptor("truncate", fd, 0) == FAILS ? -1 : own(fd, size);
}

int ftruncate64(int fd, off64_t size) {
    OWN(int, ftruncate64, int, off64_t);
    return of_descriptor("truncate", fd, 0) == FAILS ? -1 : own(fd, size);
}

int rename(const char *from, const char *to) {
    OWN(int, rename, const char *, const char *);
    return next("rename", to, 0) == FAILS ? -1 : own(from, to);
}

int renameat(int fd, const char *from, int other, const char *to) {
    OWN(int, renameat, int, const char *, int, const char *);
    return next("rename", to, 0) == FAILS ? -1 : own(fd, from, other, to);
}

int mkdir(const char *path, mode_t mode) {
    OWN(int, mkdir, const char *, mode_t);
    return next("mkdir", path, 0) == FAILS ? -1 : own(path, mode);
}

#define CREATES (O_CREAT | O_TRUNC)
#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        OWN(int, name, const char *, int, ...); \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = va_arg(more, mode_t); \
        va_end(more); \
        return (flags & CREATES) && next("open", path, 0) == FAILS ? -1 : own(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
#define OPENAT(name) \
    int name(int fd, const char *path, int flags, ...) { \
        OWN(int, name, int, const char *, int, ...); \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = va_arg(more, mode_t); \
        va_end(more); \
        return (flags & CREATES) && next("open", path, 0) == FAILS ? -1 : own(fd, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name) \
    FILE *name(const char *path, const char *mode) { \
        OWN(FILE *, name, const char *, const char *); \
        return mode[0] != 'r' && next("open", path, 0) == FAILS ? NULL : own(path, mode); \
    }
FOPEN(fopen)
FOPEN(fopen64)
