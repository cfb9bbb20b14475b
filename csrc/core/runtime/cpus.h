// How many threads make sense in this process.
#pragma once

namespace fusedsplit {

// CPUs by affinity and cgroup quota, at least 1; asked once.
int usable_cpus();

// FUSEDSPLIT_NUM_THREADS if that is a number from 1 to `most`, else usable_cpus().
int default_threads(int most);

}  // namespace fusedsplit
