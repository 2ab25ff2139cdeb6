// Preloaded into a redis-server, this sets its wall clock. The file named by
// REDISTEST_CLOCK holds two native 64-bit integers: by how many seconds the
// clock is off from the machine's; and the time at which the clock stands
// still, in microseconds since 1970, or 0 if it goes on. The file is mapped, so
// a change counts at once. The monotonic clock goes on as it is, as when an
// administrator sets the time.

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct setting {
	int64_t offset, still;
};

static volatile struct setting none, *set = &none;

__attribute__((constructor)) static void map_setting(void)
{
	const char *name = getenv("REDISTEST_CLOCK");
	int fd = name ? open(name, O_RDONLY) : -1;
	void *p = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *set, PROT_READ, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		abort();
	set = p;
}

int clock_gettime(clockid_t id, struct timespec *ts)
{
	int rc = syscall(SYS_clock_gettime, id, ts);
	int64_t still = set->still;
	if (rc != 0 || id != CLOCK_REALTIME)
		return rc;
	ts->tv_sec += set->offset;
	if (still != 0) {
		ts->tv_sec = still / 1000000;
		ts->tv_nsec = still % 1000000 * 1000;
	}
	return rc;
}

int gettimeofday(struct timeval *restrict tv, void *restrict tz)
{
	struct timespec ts;
	int rc = clock_gettime(CLOCK_REALTIME, &ts);
	(void)tz; // obsolete
	tv->tv_sec = ts.tv_sec;
	tv->tv_usec = ts.tv_nsec / 1000;
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
