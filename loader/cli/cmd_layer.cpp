// SPDX-License-Identifier: MIT
#include <sys/stat.h>

#include <cerrno>
#include <filesystem>

#include "cli/command_line.h"
#include "cli/json.h"
#include "cli/output.h"
#include "device/clone.h"
#include "device/overlap.h"
#include "layer/check.h"
#include "layer/extents.h"
#include "sys/json_names.h"
#include "sys/sizes.h"

// The words of qemu-img's JSON are used where they fit.

namespace ublk::cli {

namespace {

constexpr const char* kFormat = "ublk-layer";

const char* format_name(LayerBase::Kind kind) {
  switch (kind) {
    case LayerBase::Kind::layer:
      return kFormat;
    case LayerBase::Kind::file:
      return "raw";
    case LayerBase::Kind::none:
      break;
  }
  return nullptr;
}

json or_null(const char* text) { return text ? json(text) : json(nullptr); }

void put_name_or_null(json& out, const char* key, const std::string& name) {
  if (name.empty())
    out[key] = nullptr;
  else
    put_name(out, key, name);
}

// What the file takes on its disk; of a disk, all.
uint64_t actual_bytes(const Backing& file) {
  struct stat st{};
  if (file.is_block || ::fstat(file.fd.get(), &st) != 0) return file.size_bytes;
  return static_cast<uint64_t>(st.st_blocks) << kSectorShift;
}

// The last block of a disk may be cut short.
uint64_t present_bytes(const Layer& layer) {
  const LayerHeader& header = layer.header();
  const uint64_t all = layer.blocks().count() * header.block_bytes;
  const uint64_t rest =
      header.nr_blocks() * header.block_bytes - header.size_bytes;
  return layer.blocks().present(header.nr_blocks() - 1) ? all - rest : all;
}

json info_to_json(const Layer& layer) {
  const LayerHeader& header = layer.header();
  const LayerBase& base = header.base;
  json out;
  put_name(out, "filename", layer.file().path);
  out["format"] = kFormat;
  out["virtual-size"] = header.size_bytes;
  out["actual-size"] = actual_bytes(layer.file());
  out["cluster-size"] = header.block_bytes;
  out["uuid"] = uuid_text(header.uuid);
  out["sealed"] = header.sealed;
  out["present-blocks"] = layer.blocks().count();
  out["present-bytes"] = present_bytes(layer);
  out["bitmap-offset"] = header.bitmap_offset;
  out["data-offset"] = header.data_offset;
  put_name_or_null(out, "backing-filename", base.stored_path);
  put_name_or_null(out, "full-backing-filename", base.path);
  out["backing-filename-format"] = or_null(format_name(base.kind));
  out["backing-uuid"] = base.kind == LayerBase::Kind::layer
                            ? json(uuid_text(base.uuid))
                            : json(nullptr);
  return out;
}

json base_to_json(const Backing& base) {
  json out;
  put_name(out, "filename", base.path);
  out["format"] = "raw";
  out["virtual-size"] = base.size_bytes;
  out["actual-size"] = actual_bytes(base);
  return out;
}

std::string info_to_text(const Layer& layer) {
  const LayerHeader& header = layer.header();
  const LayerBase& base = header.base;
  std::string text =
      fmt("{}: layer of {} bytes in blocks of {}, uuid {}{}\n"
          "\tpresent: {} of {} blocks, {} bytes; on disk: {} bytes\n",
          shown_name(layer.file().path), header.size_bytes, header.block_bytes,
          uuid_text(header.uuid), header.sealed ? ", sealed" : "",
          layer.blocks().count(), header.nr_blocks(), present_bytes(layer),
          actual_bytes(layer.file()));
  switch (base.kind) {
    case LayerBase::Kind::none:
      return text + "\tbase: none";
    case LayerBase::Kind::layer:
      return text + fmt("\tbase: layer {} uuid {}",
                        shown_name(base.stored_path), uuid_text(base.uuid));
    case LayerBase::Kind::file:
      break;
  }
  return text + fmt("\tbase: file {} of {} bytes", shown_name(base.stored_path),
                    base.size_bytes);
}

json check_to_json(const std::string& path, const LayerCheck& check) {
  json out;
  put_name(out, "filename", path);
  out["format"] = kFormat;
  out["check-errors"] = 0;
  out["total-clusters"] = check.header ? check.header->nr_blocks() : 0;
  out["allocated-clusters"] = check.present_blocks;
  out["corruptions"] = check.left();
  out["corruptions-fixed"] = check.damages.size() - check.left();
  json& damages = out["damages"] = json::array();
  for (const LayerDamage& damage : check.damages)
    damages.push_back({{"kind", damage_name(damage.kind)},
                       {"offset", damage.offset},
                       {"bytes", damage.bytes},
                       {"what", damage.what},
                       {"mendable", damage.mendable},
                       {"mended", damage.mended}});
  return out;
}

std::string check_to_text(const std::string& path, const LayerCheck& check) {
  std::string text;
  for (const LayerDamage& damage : check.damages)
    text += fmt("{}: {}{}\n", damage_name(damage.kind), one_line(damage.what),
                damage.mended     ? " (mended)"
                : damage.mendable ? " (--repair mends it)"
                                  : "");
  if (check.left())
    return text + fmt("{}: damaged: {}", shown_name(path), check.left());
  const LayerHeader& header = *check.header;
  return text + fmt("{}: nothing is wrong{}: {} of {} blocks are present",
                    shown_name(path), text.empty() ? "" : " any more",
                    check.present_blocks, header.nr_blocks());
}

// As `qemu-img map --output=json` has it.
json extent_to_json(const LayerExtent& extent) {
  json out = {{"start", extent.start}, {"length", extent.length},
              {"depth", extent.depth}, {"present", extent.present},
              {"zero", extent.zero},   {"data", !extent.zero}};
  if (!extent.zero) out["offset"] = extent.offset;
  return out;
}

const std::string& file_of(const LayerChain& chain, uint32_t depth) {
  return depth < chain.layers.size() ? chain.layers[depth].file().path
                                     : chain.base->path;
}

std::string extent_to_text(const LayerChain& chain, const LayerExtent& extent) {
  const std::string part = fmt("{:>14} {:>14}", extent.start, extent.length);
  if (!extent.present) return fmt("{}  nothing: zeroes", part);
  const std::string file = shown_name(file_of(chain, extent.depth));
  return extent.zero ? fmt("{}  zeroes of {}", part, file)
                     : fmt("{}  {} at {}", part, file, extent.offset);
}

json change_to_json(const LayerChange& change) {
  return {{"start", change.start},
          {"length", change.length},
          {"zero", change.zero},
          {"data", !change.zero}};
}

std::string change_to_text(const LayerChange& change) {
  return fmt("{:>14} {:>14}  {}", change.start, change.length,
             change.zero ? "zeroes" : "data");
}

// EINVAL: used wrongly.
Result<Layer::CreateOptions> layer_request(const LayerOptions& options) {
  Layer::CreateOptions request{.path = options.file, .base = options.base};
  if (!options.size.empty())
    request.size_bytes = TRY_IN("--size", parse_size(options.size));
  const uint64_t block = TRY_IN("--block-size", parse_size(options.block_size));
  if (!is_power_of_2(block) || block < kLeastBlockBytes ||
      block > kMostBlockBytes)
    return fail(EINVAL, "--block-size {}: is not a power of two from 4K to 1M",
                options.block_size);
  request.block_bytes = static_cast<uint32_t>(block);
  if (options.size.empty() && options.base.empty())
    return fail(EINVAL, "{}: --base or --size is needed", options.file);
  if (!options.size.empty() &&
      (!request.size_bytes || request.size_bytes % 512))
    return fail(EINVAL, "--size {}: is not a multiple of 512 bytes",
                options.size);
  if (options.base_format == "raw")
    request.base_kind = LayerBase::Kind::file;
  else if (options.base_format == "layer" || options.base_format == kFormat)
    request.base_kind = LayerBase::Kind::layer;
  else if (!options.base_format.empty())
    return fail(EINVAL, "--base-format {}: is neither layer nor raw",
                options.base_format);
  if (request.base_kind && options.base.empty())
    return fail(EINVAL, "--base-format {}: there is no --base",
                options.base_format);
  return request;
}

// A device may be without a server, and so without the layer's lock.
Result<void> check_free(const std::string& layer) {
  return check_no_device_has(StateStore::open_existing(), layer);
}

Result<LayerHeader> create_layer(const Layer::CreateOptions& request) {
  if (!request.base.empty())
    TRY(check_free(std::filesystem::path(request.path).parent_path() /
                   request.base));
  return Layer::create(request);
}

}  // namespace

void define_layer_create(Arguments& command, Options& options) {
  LayerOptions& layer = options.layer;
  command.text("file", layer.file, "FILE", "the layer; must not be there yet",
               true);
  command.text("-b,--base", layer.base, "FILE",
               "what is below: a layer, or a file or disk whose bytes are "
               "those of a disk; if relative, to the directory of the new "
               "layer");
  command.text("-F,--base-format", layer.base_format, "layer|raw",
               "what the base is; if not given, a file that begins like a "
               "layer is one. Say it of a disk that somebody else writes to");
  command.text("--size", layer.size, "SIZE",
               "of the disk (default: that of the base)");
  command.text("--block-size", layer.block_size, "SIZE",
               "what is copied at once: 4K to 1M");
  command.footer(
      "A layer has the blocks of a disk that were written since it was made; "
      "all others are read from its base.\n"
      "What is below a layer must never change. A base that is a layer is "
      "sealed for good, so that nothing can be written to it any more; one "
      "that is being written is refused. A base that is a file must be left "
      "alone: a layer whose base has changed is not opened.\n"
      "Examples:\n"
      "  ublk-bpf layer create vm1.delta --base golden.img\n"
      "  ublk-bpf layer create vm2.delta --base vm1.delta\n"
      "  ublk-bpf layer create empty.delta --size 10G --block-size 64K");
}

void define_layer_info(Arguments& command, Options& options) {
  command.text("file", options.layer.file, "FILE", "a layer", true);
  command.flag("--chain", options.layer.chain,
               "the layers and the file below it too");
  command.footer(
      "Shows the state that is saved; a device that uses the layer may have "
      "more.\n"
      "Examples:\n"
      "  ublk-bpf layer info vm1.delta\n"
      "  ublk-bpf layer info vm1.delta --chain --json");
}

void define_layer_check(Arguments& command, Options& options) {
  command.text("file", options.layer.file, "FILE", "a layer", true);
  command.flag("--repair", options.layer.repair,
               "mend what can be mended without guessing; nobody else may "
               "have the layer open");
  command.footer(
      "Reads header and bitmap, and looks whether what is below the layer is "
      "what it was made on. Data has no checksums.\n"
      "Exit status: 0 nothing is wrong, or all of it is mended, 1 it could "
      "not be checked, 2 used wrongly, 3 something is wrong.\n"
      "Examples:\n"
      "  ublk-bpf layer check vm1.delta\n"
      "  ublk-bpf layer check vm1.delta --repair");
}

void define_layer_list(Arguments& command, Options& options) {
  command.text("file", options.layer.file, "FILE", "a layer", true);
  command.footer(
      "Shows where each part of the disk is: its offset on the disk and its "
      "length in bytes, and the file and the offset in it. Shows the state "
      "that is saved; a device that uses the layer may have more.\n"
      "Examples:\n"
      "  ublk-bpf layer list vm1.delta\n"
      "  ublk-bpf layer list vm1.delta --json");
}

void define_layer_diff(Arguments& command, Options& options) {
  LayerOptions& layer = options.layer;
  command.text("file", layer.file, "FILE", "a layer", true);
  command.text("--since", layer.since, "LAYER", "one of those that it is on",
               true);
  command.footer(
      "Shows what has changed on the disk since it was that of another layer: "
      "offset and length in bytes, and whether it has data or reads as zeroes "
      "now. Who has a copy of that one needs no more than this, as a backup "
      "does. Shows the state that is saved; a device that uses the layer may "
      "have more.\n"
      "Examples:\n"
      "  ublk-bpf layer diff vm1.delta --since monday.delta --json");
}

int run_layer_create(const Options& options) {
  const auto request = layer_request(options.layer);
  if (!request) return report(request.error(), options.json, kUsedWrongly);
  if (const auto made = create_layer(*request); !made)
    return report(made.error(), options.json);
  const auto layer = Layer::open(options.layer.file, {});
  if (!layer) return report(layer.error(), options.json);
  say(options.json ? dump(info_to_json(*layer)) : info_to_text(*layer));
  return kDone;
}

int run_layer_info(const Options& options) {
  if (!options.layer.chain) {
    const auto layer = Layer::open(options.layer.file, {});
    if (!layer) return report(layer.error(), options.json);
    say(options.json ? dump(info_to_json(*layer)) : info_to_text(*layer));
    return kDone;
  }
  const auto chain = LayerChain::open(options.layer.file, {}, Layer::Use::look);
  if (!chain) return report(chain.error(), options.json);
  json all = json::array();
  for (const Layer& layer : chain->layers) {
    if (options.json)
      all.push_back(info_to_json(layer));
    else
      say(info_to_text(layer));
  }
  if (options.json) {
    if (chain->base) all.push_back(base_to_json(*chain->base));
    say(dump(all));
  } else if (chain->base) {
    say(fmt("{}: file of {} bytes", shown_name(chain->base->path),
            chain->base->size_bytes));
  }
  return kDone;
}

int run_layer_check(const Options& options) {
  const std::string& path = options.layer.file;
  if (options.layer.repair)
    if (auto free = check_free(path); !free)
      return report(free.error(), options.json);
  const auto check = check_layer(path, options.layer.repair);
  if (!check) return report(check.error(), options.json);
  say(options.json ? dump(check_to_json(path, *check))
                   : check_to_text(path, *check));
  return check->left() ? kDamaged : kDone;
}

int run_layer_list(const Options& options) {
  const auto chain = LayerChain::open(options.layer.file, {}, Layer::Use::look);
  if (!chain) return report(chain.error(), options.json);
  std::string text;
  const auto done =
      for_each_extent(*chain, [&](const LayerExtent& extent) -> Result<void> {
        if (options.json)
          text += (text.empty() ? "" : ",") + dump(extent_to_json(extent));
        else
          say(extent_to_text(*chain, extent));
        return {};
      });
  if (!done) return report(done.error(), options.json);
  if (options.json) say("[" + text + "]");
  return kDone;
}

namespace {

int print_changes(const Options& options, const LayerChain& chain) {
  Result<uint32_t> depth = 1;  // of what is right below the top
  if (!options.layer.since.empty())
    depth = depth_of_layer(chain, options.layer.since);
  else if (chain.layers.front().header().base.kind == LayerBase::Kind::none)
    depth = fail(EINVAL, "{}: is on nothing, so it has no difference to it",
                 chain.layers.front().file().path);
  if (!depth) return report(depth.error(), options.json);
  std::string text;
  const auto done = for_each_change(
      chain, *depth, [&](const LayerChange& change) -> Result<void> {
        if (options.json)
          text += (text.empty() ? "" : ",") + dump(change_to_json(change));
        else
          say(change_to_text(change));
        return {};
      });
  if (!done) return report(done.error(), options.json);
  if (options.json) say("[" + text + "]");
  return kDone;
}

}  // namespace

int run_layer_diff(const Options& options) {
  const auto chain = LayerChain::open(options.layer.file, {}, Layer::Use::look);
  if (!chain) return report(chain.error(), options.json);
  return print_changes(options, *chain);
}

void define_diff(Arguments& command, Options& options) {
  command.device(options.dev_id, true);
  command.text("--since", options.layer.since, "FILE",
               "a snapshot, another layer that the device's is on, or the file "
               "below them (default: what is right below it)");
  command.footer(
      "Shows what has changed on a clone since it was that: offset and length "
      "in bytes, and whether it has data or reads as zeroes now. Who has a "
      "copy of that one needs no more than this, as a backup does. Shows what "
      "the device has now; what the kernel has cached of it and not written "
      "yet (fsync, fsfreeze) is not there.\n"
      "Examples:\n"
      "  ublk-bpf diff -n 0\n"
      "  ublk-bpf diff -n 0 --since vm1-monday.delta --json");
}

int run_diff(const Options& options) {
  const StateStore states = StateStore::open_existing();
  const auto live = live_chain(states, static_cast<uint32_t>(options.dev_id));
  if (!live) return report(live.error(), options.json);
  return print_changes(options, live->chain);
}

}  // namespace ublk::cli
