// SPDX-License-Identifier: MIT
#include "sys/cpu_list.h"

#include <cerrno>
#include <charconv>

namespace ublk {

namespace {

// Takes a number off the text.
bool take_number(std::string_view& text, unsigned& number) {
  const auto [end, bad] =
      std::from_chars(text.data(), text.data() + text.size(), number);
  if (bad != std::errc()) return false;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return true;
}

}  // namespace

Result<std::vector<uint16_t>> parse_cpu_list(std::string_view text) {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::string_view rest = text;
  for (;;) {
    unsigned first = 0;
    bool good = take_number(rest, first);
    unsigned last = first;
    if (good && rest.starts_with('-')) {
      rest.remove_prefix(1);
      good = take_number(rest, last);
    }
    if (!good || last < first || last >= CPU_SETSIZE)
      return fail(EINVAL, "'{}' is not a list of CPUs below {}, such as 0-3,8",
                  text, CPU_SETSIZE);
    for (unsigned cpu = first; cpu <= last; cpu++) CPU_SET(cpu, &set);
    if (rest.empty()) return cpus_of(set);
    if (!rest.starts_with(','))
      return fail(EINVAL, "'{}' is not a list of CPUs, such as 0-3,8", text);
    rest.remove_prefix(1);
  }
}

std::string cpu_list(const std::vector<uint16_t>& cpus) {
  std::string text;
  for (size_t i = 0; i < cpus.size();) {
    size_t last = i;
    while (last + 1 < cpus.size() && cpus[last + 1] == cpus[last] + 1) last++;
    text += fmt("{}{}", text.empty() ? "" : ",", cpus[i]);
    if (last > i) text += fmt("-{}", cpus[last]);
    i = last + 1;
  }
  return text;
}

std::vector<uint16_t> cpus_of(const cpu_set_t& set) {
  std::vector<uint16_t> cpus;
  for (uint16_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  return cpus;
}

cpu_set_t cpu_set_of(const std::vector<uint16_t>& cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const uint16_t cpu : cpus)
    if (cpu < CPU_SETSIZE) CPU_SET(cpu, &set);
  return set;
}

}  // namespace ublk
