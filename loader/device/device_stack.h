// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "device/state.h"

namespace ublk {

// What block devices are made of, as far as sysfs and our own states tell.
// The kernel part refuses rings of ublk devices, but sees neither through loop
// devices nor through device mapper.
class DeviceStack {
 public:
  // `sysfs` is where /sys is mounted; the states are of our devices.
  explicit DeviceStack(const StateStore& states, std::string sysfs = "/sys")
      : states_(states), sysfs_(std::move(sysfs)) {}

  // How the data of an open block device or file comes to lie on `target`: the
  // devices from the first one down to it, by name. Nothing if it does not, or
  // if nobody can tell.
  std::optional<std::vector<std::string>> way(int fd, dev_t target) const;

 private:
  std::optional<std::vector<std::string>> way_down(
      dev_t from, dev_t target, std::vector<dev_t>& seen) const;
  std::vector<dev_t> below(const std::string& node,
                           const std::string& name) const;

  const StateStore& states_;
  std::string sysfs_;
};

}  // namespace ublk
