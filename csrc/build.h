// What a library was built from. Each of the three has a copy of its own, made in the same build.
#pragma once

namespace fusedsplit {

extern const char* const kVersion;  // the release
extern const char* const kBuild;    // the release, and a hash of the core's sources

}  // namespace fusedsplit
