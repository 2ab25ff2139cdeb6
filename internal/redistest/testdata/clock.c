// Preloaded into a redis-server, this sets its wall clock off from the
// machine's by the seconds that the file named by REDISTEST_CLOCK holds as a
// native 64-bit integer. The file is mapped, so a change counts at once. The
// monotonic clock goes on as it is, as when an administrator sets the time.

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t none, *offset = &none;

__attribute__((constructor)) static void map_offset(void)
{
	const char *name = getenv("REDISTEST_CLOCK");
	int fd = name ? open(name, O_RDONLY) : -1;
	void *p = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		abort();
	offset = p;
}

int clock_gettime(clockid_t id, struct timespec *ts)
{
	int rc = syscall(SYS_clock_gettime, id, ts);
	if (rc == 0 && id == CLOCK_REALTIME)
		ts->tv_sec += *offset;
	return rc;
}

int gettimeofday(struct timeval *restrict tv, void *restrict tz)
{
	int rc = syscall(SYS_gettimeofday, tv, tz);
	if (rc == 0)
		tv->tv_sec += *offset;
	return rc;
}

time_t time(time_t *t)
{
	struct timespec ts;
	clock_gettime(CLOCK_REALTIME, &ts);
	if (t)
		*t = ts.tv_sec;
	return ts.tv_sec;
}
