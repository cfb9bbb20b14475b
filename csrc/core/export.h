// What the core library exports: everything else in it is hidden.
#pragma once

#define FUSEDSPLIT_EXPORT __attribute__((visibility("default")))
