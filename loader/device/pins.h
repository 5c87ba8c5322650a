// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "device/state.h"
#include "prog/maps.h"
#include "sys/error.h"

namespace ublk {

// The names of a program's maps in a BPF file system: DIR/ublkbN/NAME, with
// '_' for the dots that there cannot be. The directory is the device's alone.
//
// Made beside those of the program before: what they replace stays until
// publish(). Destruction without it removes them.
class NewPins {
 public:
  // EINVAL: `dir` is not in a BPF file system. It is made if need be.
  static Result<NewPins> create(const std::string& dir, uint32_t dev_id,
                                std::span<const MapInfo> maps);
  NewPins(NewPins&& other) noexcept : pins_(std::exchange(other.pins_, {})) {}
  ~NewPins();

  // Gives them their names.
  Result<Pins> publish();

 private:
  NewPins() = default;
  Pins pins_;
};

// Removes those of `old` that are not in `now`, and the directory when it is
// empty. Who has removed them before has done no harm.
void remove_pins(const Pins& old, const Pins& now = {});

// The path of each map that is pinned there and still the same; "" of others.
std::vector<std::string> pinned_paths(const Pins& pins,
                                      std::span<const MapInfo> maps);

}  // namespace ublk
