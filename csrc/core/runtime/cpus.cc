#include "core/runtime/cpus.h"

#include <cstdio>
#include <cstdlib>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace fusedsplit {
namespace {

// The two numbers at the start of a file, or false.
bool read_numbers(const char* path, const char* format, double* a, double* b) {
  std::FILE* file = std::fopen(path, "r");
  if (!file) return false;
  const int wanted = b ? 2 : 1;
  const int got = b ? std::fscanf(file, format, a, b) : std::fscanf(file, format, a);
  std::fclose(file);
  return got == wanted;
}

// CPUs that the cgroup's quota allows, rounded up; 0 if there is none. In a container the process sees its
// own group at the root of the tree.
int quota_cpus() {
  double quota = 0, period = 0;
  const bool v2 = read_numbers("/sys/fs/cgroup/cpu.max", "%lf %lf", &quota, &period);
  const bool v1 = !v2 && read_numbers("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "%lf", &quota, nullptr) &&
                  read_numbers("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "%lf", &period, nullptr);
  if ((!v2 && !v1) || !(quota > 0) || !(period > 0)) return 0;
  const double cpus = quota / period;
  return cpus > 4096 ? 4096 : static_cast<int>(cpus + 0.999);
}

int count_cpus() {
  int cpus = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) cpus = CPU_COUNT(&set);
  const int quota = quota_cpus();
  if (quota > 0 && quota < cpus) cpus = quota;
#endif
  return cpus < 1 ? 1 : cpus;
}

}  // namespace

int usable_cpus() {
  static const int cpus = count_cpus();
  return cpus;
}

int default_threads(int most) {
  if (const char* text = std::getenv("FUSEDSPLIT_NUM_THREADS")) {
    char* end = nullptr;
    const long value = std::strtol(text, &end, 10);
    if (end != text && *end == '\0' && value >= 1 && value <= most) return static_cast<int>(value);
  }
  return usable_cpus();
}

}  // namespace fusedsplit
