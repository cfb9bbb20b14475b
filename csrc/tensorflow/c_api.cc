#include "tensorflow/c_api.h"

#include <dlfcn.h>

#include <cstdio>

namespace fusedsplit {
namespace {

// Where TensorFlow keeps its C API: the framework library on every release so far; the others in case it
// moves.
const char* const kLibraries[] = {
    "libtensorflow_framework.so.2",
    "libtensorflow_cc.so.2",
    "libtensorflow_framework.2.dylib",
    "libtensorflow_cc.2.dylib",
};
constexpr int kLibraryCount = sizeof(kLibraries) / sizeof(kLibraries[0]);

struct Libraries {
  void* handles[kLibraryCount];
  int count = 0;

  // RTLD_NOLOAD: only a TensorFlow that is in the process already; a second copy would have registries of its
  // own.
  Libraries() {
    for (const char* name : kLibraries) {
      if (void* handle = dlopen(name, RTLD_NOLOAD | RTLD_NOW)) handles[count++] = handle;
    }
  }

  void* find(const char* symbol) const {
    for (int i = 0; i < count; ++i) {
      if (void* found = dlsym(handles[i], symbol)) return found;
    }
    return dlsym(RTLD_DEFAULT, symbol);
  }
};

template <class Function>
bool resolve(const Libraries& libraries, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(libraries.find(name));
  return *function != nullptr;
}

}  // namespace

void* find_in_tensorflow(const char* symbol) { return Libraries().find(symbol); }

const char* load_c_api(CApi* api) {
  static char reason[256];
  const Libraries libraries;
#define FUSEDSPLIT_RESOLVE(name, result, parameters)                                                       \
  if (!resolve(libraries, #name, &api->name)) {                                                            \
    std::snprintf(reason, sizeof(reason),                                                                  \
                  "expected a TensorFlow in this process that exports %s. Received: %s", #name,            \
                  libraries.count ? "one without it (TensorFlow 2.16 to 2.21 have it)" : "no TensorFlow"); \
    return reason;                                                                                         \
  }
  FUSEDSPLIT_C_API(FUSEDSPLIT_RESOLVE)
#undef FUSEDSPLIT_RESOLVE
  return "";
}

}  // namespace fusedsplit
