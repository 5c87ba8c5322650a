// SPDX-License-Identifier: MIT
//
// Command lines, a word per line, up to what the library is asked for. Nothing
// is opened or run.

#include <cstring>

#include "cli/command_line.h"
#include "fuzz.h"
#include "sys/cpu_list.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ublk::cli;
  std::vector<std::string> words = {"ublk-bpf", ""};
  for (const char c :
       std::string_view(reinterpret_cast<const char*>(data), size)) {
    if (c == '\n')
      words.emplace_back();
    else if (c)
      words.back() += c;
  }
  std::vector<const char*> argv;
  for (const auto& word : words) argv.push_back(word.c_str());
  const Parsed parsed = parse(static_cast<int>(argv.size()), argv.data());
  must(parsed.status == kDone || !parsed.text.empty(), "wrong use says why");
  if (!parsed.text.empty()) return 0;
  if (parsed.options.command == "add") {
    const auto requests = add_requests(parsed.options.add);
    must(requests || !requests.error().line().empty(), "a refusal says why");
    if (requests)
      for (const auto& request : *requests)
        must(request.nr_hw_queues && request.queue_depth &&
                 request.target.max_io_bytes % 4096 == 0,
             "what is asked for is possible");
  } else if (parsed.options.command == "set-affinity") {
    if (const auto cpus = ublk::parse_cpu_list(parsed.options.cpus)) {
      const auto again = ublk::parse_cpu_list(ublk::cpu_list(*cpus));
      must(again && *again == *cpus, "a list is read as it was written");
    }
  } else if (parsed.options.command == "attach") {
    (void)attach_request(0, parsed.options.attach);
  } else if (parsed.options.command == "help") {
    (void)help_on(parsed.options.topic);
    for (const auto& word : parsed.options.topic_words) (void)help_on(word);
  }
  return 0;
}
