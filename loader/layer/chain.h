// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

#include "layer/layer.h"
#include "sys/backing.h"
#include "sys/error.h"

namespace ublk {

// Size and time of a file that is a base, as a layer keeps them.
Result<LayerBase> describe_base_file(const Backing& file);
// ESTALE: it is not what the layer was made on; names both.
Result<void> check_base_file(const std::string& layer, const LayerBase& base,
                             const Backing& file);
// The same of a base that is a layer. ETXTBSY: it is not sealed.
Result<void> check_base_layer(const std::string& layer, const LayerBase& base,
                              const LayerHeader& now);

// The headers of a layer and those below it, the topmost first, without locks
// or bitmaps. Fails as LayerChain::open() does, also if a base is missing.
Result<std::vector<LayerHeader>> layer_chain_headers(const std::string& top);

}  // namespace ublk
