// A model on its way from Python into a tokenizer.

#pragma once

#include <memory>
#include <stdexcept>
#include <utility>

#include "text/model.h"

namespace penstock::bindings {

// Owns a model until a tokenizer takes it.
class ModelHandle {
  public:
    explicit ModelHandle(std::unique_ptr<const text::Model> model) : model_(std::move(model)) {}

    const text::Model& get() const {
        if (!model_) throw std::invalid_argument("this model belongs to a tokenizer already");
        return *model_;
    }
    std::unique_ptr<const text::Model> take() {
        static_cast<void>(get());
        return std::move(model_);
    }

  private:
    std::unique_ptr<const text::Model> model_;
};

}  // namespace penstock::bindings
