// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

#include "prog/face.h"

namespace ublk {

struct Feature {
  std::string name;
  bool available = false;
  std::string needs;  // what it takes
  std::string how;    // how to get it; empty if it is there
};

struct Probe {
  std::string kernel;  // as uname -r has it
  FaceInfo face;
  bool ublk_module = false;  // /dev/ublk-control is there
  std::string data_path;     // what a device gets by default; "" unknown
  std::vector<Feature> features;
  // A program can be attached to a device that is added now.
  bool can_attach = false;
  // What to do on this host, one step each; empty if there is nothing.
  std::vector<std::string> advice;
};

// Whether the kernel takes only modules that are signed with a key that it
// knows: it says so, is locked down, or was booted with Secure Boot. `root` is
// where /sys is, "" for the host's.
bool demands_signed_modules(const std::string& root);

// What this kernel offers; changes nothing. Works without root, but then
// knows less and says so.
Probe probe();

}  // namespace ublk
