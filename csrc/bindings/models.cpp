// The families of tokenizers, from the parts of a parsed tokenizer.json.

#include "bindings/models.h"

#include <pybind11/stl.h>

#include <pybind11/typing.h>
#include <cmath>

#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/register.h"
#include "text/byte_bpe.h"
#include "text/normalize.h"
#include "text/number.h"
#include "text/piece_bpe.h"
#include "text/unigram.h"
#include "text/wordpiece.h"

namespace penstock::bindings {
namespace {

using text::Id;
using VocabularyDict = py::typing::Dict<py::str, py::int_>;
using MergeList = py::typing::List<py::object>;
using Step = py::typing::Tuple<py::object, py::ellipsis>;  // of a normalizer: its name, its settings
using text::Normalizer;

std::string_view view_of(PyObject* object) {
    Py_ssize_t size = 0;
    const char* const bytes = PyUnicode_AsUTF8AndSize(object, &size);
    if (bytes == nullptr) throw py::error_already_set();
    return {bytes, static_cast<std::size_t>(size)};
}

Id id_of(PyObject* object) {
    const long id = PyLong_AsLong(object);
    if (id == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
    if (id < 0 || id > 0x7ffffffe)
        throw py::value_error("token id " + std::to_string(id) + " is out of range");
    return static_cast<Id>(id);
}

// Of a number in JSON: true and false are none.
double score_of(PyObject* object) {
    if (PyFloat_CheckExact(object)) return PyFloat_AS_DOUBLE(object);
    if (!PyLong_CheckExact(object)) throw py::value_error("Unigram with a score that is no number");
    const double score = PyLong_AsDouble(object);
    if (score == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
    return score;
}

// Views of the strings in the dict: valid while it is.
std::vector<text::TokenIds::Token> tokens_from(const VocabularyDict& vocabulary) {
    std::vector<text::TokenIds::Token> tokens;
    tokens.reserve(vocabulary.size());
    PyObject *token, *id;
    for (Py_ssize_t at = 0; PyDict_Next(vocabulary.ptr(), &at, &token, &id) != 0;) {
        tokens.emplace_back(view_of(token), id_of(id));
    }
    return tokens;
}

// A merge is "left right", or in newer files [left, right].
std::vector<text::MergePair> merges_from(const MergeList& merges) {
    std::vector<text::MergePair> pairs;
    pairs.reserve(merges.size());
    for (const py::handle merge : merges) {
        if (PyUnicode_Check(merge.ptr())) {
            const std::string_view both = view_of(merge.ptr());
            const std::size_t space = both.find(' ');
            if (space == std::string_view::npos || both.find(' ', space + 1) != std::string_view::npos) {
                throw py::value_error("merge '" + std::string(both) +
                                      "' is not two tokens with a space between");
            }
            pairs.emplace_back(both.substr(0, space), both.substr(space + 1));
            continue;
        }
        PyObject* const items = merge.ptr();
        if (!PyList_Check(items) || PyList_GET_SIZE(items) != 2)
            throw py::value_error("a merge is not two tokens");
        pairs.emplace_back(view_of(PyList_GET_ITEM(items, 0)), view_of(PyList_GET_ITEM(items, 1)));
    }
    return pairs;
}

std::unique_ptr<Normalizer> step_from(const Step& step) {
    const auto name = py::cast<std::string>(step[0]);
    const auto string = [&](std::size_t at) { return py::cast<std::string>(step[at]); };
    const auto flag = [&](std::size_t at) { return py::cast<bool>(step[at]); };
    if (name == "NFC") return text::make_form(text::Form::kNfc);
    if (name == "NFD") return text::make_form(text::Form::kNfd);
    if (name == "NFKC") return text::make_form(text::Form::kNfkc);
    if (name == "NFKD") return text::make_form(text::Form::kNfkd);
    if (name == "Lowercase") return text::make_lowercase();
    if (name == "StripAccents") return text::make_strip_accents();
    if (name == "Strip") return text::make_strip(flag(1), flag(2));
    if (name == "Prepend") return text::make_prepend(string(1));
    if (name == "Replace") return text::make_replace(string(1), string(2));
    throw py::value_error("normalizer " + name);
}

// Null: no steps.
std::unique_ptr<Normalizer> normalizer_from(const std::vector<Step>& steps) {
    if (steps.empty()) return nullptr;
    std::vector<std::unique_ptr<Normalizer>> made;
    for (const Step& step : steps) made.push_back(step_from(step));
    return made.size() == 1 ? std::move(made.front()) : text::make_sequence(std::move(made));
}

ModelHandle byte_bpe(const VocabularyDict& vocabulary, const MergeList& merges,
                     const std::vector<std::tuple<std::string, std::string>>& rules, bool add_prefix_space,
                     bool ignore_merges, const std::vector<Step>& normalizer) {
    std::vector<text::Rule> known;
    for (const auto& [type, setting] : rules) {
        const std::optional<text::Rule> rule = text::rule_of(type, setting);
        if (!rule) throw py::value_error("pre_tokenizer " + type + " with " + setting);
        known.push_back(*rule);
    }
    const text::Scheme scheme =
        known.empty() ? text::Scheme(text::Rule::kNone) : text::Scheme(std::move(known));
    const std::vector<text::TokenIds::Token> tokens = tokens_from(vocabulary);
    const std::vector<text::MergePair> pairs = merges_from(merges);
    return ModelHandle(std::make_unique<text::ByteBpe>(
        tokens, pairs, text::ByteBpe::Options{scheme, add_prefix_space, ignore_merges},
        normalizer_from(normalizer)));
}

ModelHandle wordpiece(const VocabularyDict& vocabulary, std::string unk_token, std::string prefix,
                      std::size_t max_word_chars, std::optional<std::tuple<bool, bool, bool, bool>> bert) {
    std::vector<std::pair<std::string, Id>> tokens;
    for (const auto& [token, id] : tokens_from(vocabulary)) tokens.emplace_back(token, id);
    text::WordPieceSettings settings{std::move(unk_token), std::move(prefix), max_word_chars, std::nullopt};
    if (bert) {
        const auto& [clean_text, chinese_chars, strip_accents, lowercase] = *bert;
        settings.normalizer = text::BertSteps{clean_text, chinese_chars, strip_accents, lowercase};
    }
    return ModelHandle(std::make_unique<text::WordPiece>(tokens, settings));
}

using MetaspaceSettings = std::optional<std::tuple<std::string, bool>>;

std::optional<text::Metaspace> metaspace_from(const MetaspaceSettings& settings) {
    if (!settings) return std::nullopt;
    text::Metaspace metaspace;
    const auto& [scheme, split] = *settings;
    using Prepend = text::Metaspace::Prepend;
    metaspace.prepend = scheme == "always"  ? Prepend::kAlways
                        : scheme == "first" ? Prepend::kFirst
                                            : Prepend::kNever;
    metaspace.split = split;
    return metaspace;
}

ModelHandle piece_bpe(const VocabularyDict& vocabulary, const MergeList& merges,
                      std::optional<std::string> unk_token, bool fuse_unk, bool byte_fallback,
                      bool ignore_merges, const std::vector<Step>& normalizer,
                      const MetaspaceSettings& metaspace) {
    text::PieceBpe::Options options{.unk_token = std::move(unk_token),
                                    .fuse_unk = fuse_unk,
                                    .byte_fallback = byte_fallback,
                                    .ignore_merges = ignore_merges,
                                    .prepend = false,
                                    .replace_spaces = false,
                                    .metaspace = metaspace_from(metaspace)};
    const std::string mark = text::Metaspace{}.replacement;
    for (const Step& step : normalizer) {
        const auto name = py::cast<std::string>(step[0]);
        if (name == "Prepend" && !options.prepend && !options.replace_spaces &&
            py::cast<std::string>(step[1]) == mark) {
            options.prepend = true;
        } else if (name == "Replace" && !options.replace_spaces && py::cast<std::string>(step[1]) == " " &&
                   py::cast<std::string>(step[2]) == mark) {
            options.replace_spaces = true;
        } else {
            throw py::value_error("BPE over characters with normalizer " + name);
        }
    }
    const std::vector<text::TokenIds::Token> tokens = tokens_from(vocabulary);
    const std::vector<text::MergePair> pairs = merges_from(merges);
    return ModelHandle(std::make_unique<text::PieceBpe>(tokens, pairs, options));
}

text::Unigram::Step unigram_step_from(const Step& step) {
    using Kind = text::Unigram::Step::Kind;
    const auto name = py::cast<std::string>(step[0]);
    text::Unigram::Step made;
    if (name == "Strip") {
        made.kind = Kind::kStrip;
        made.left = py::cast<bool>(step[1]);
        made.right = py::cast<bool>(step[2]);
    } else if (name == "ReplaceSpaces") {
        made.kind = Kind::kSpaces;
        made.content = py::cast<std::string>(step[1]);
    } else if (name == "Precompiled") {
        made.words = text::make_precompiled(py::cast<std::string>(step[1]));
    } else if (name == "Prepend" ||
               (name == "Replace" && py::cast<std::string>(step[1]).find(' ') != std::string::npos)) {
        throw py::value_error("Unigram with normalizer " + name);
    } else {
        made.words = step_from(step);
    }
    return made;
}

ModelHandle unigram(const py::typing::List<py::object>& vocabulary, std::size_t unk_id, bool byte_fallback,
                    const std::vector<Step>& normalizer, bool splits_at_spaces,
                    const MetaspaceSettings& metaspace) {
    std::vector<text::Unigram::Piece> pieces;
    pieces.reserve(vocabulary.size());
    for (const py::handle entry : vocabulary) {
        PyObject* const pair = entry.ptr();
        if (!PyList_Check(pair) || PyList_GET_SIZE(pair) != 2)
            throw py::value_error("a piece is not a string and a score");
        pieces.push_back({view_of(PyList_GET_ITEM(pair, 0)), score_of(PyList_GET_ITEM(pair, 1))});
    }
    std::vector<text::Unigram::Step> steps;
    for (const Step& step : normalizer) steps.push_back(unigram_step_from(step));
    const text::Unigram::Options options{.unk_id = unk_id,
                                         .byte_fallback = byte_fallback,
                                         .whitespace_split = splits_at_spaces,
                                         .metaspace = metaspace_from(metaspace)};
    return ModelHandle(std::make_unique<text::Unigram>(pieces, std::move(steps), options));
}

}  // namespace

void register_models(py::module_& m) {
    py::class_<ModelHandle>(m, "Model", "A family's way from text to tokens, until a Tokenizer takes it.")
        .def(
            "normalize",
            [](const ModelHandle& self, const std::string& text) {
                std::string normal;
                if (!self.get().normalize(text, normal))
                    throw py::value_error("cannot be normalized exactly");
                return normal;
            },
            py::arg("text"), "What the normalizer makes of a text. ValueError: not known exactly.");
    m.def(
        "parse_number",
        [](const std::string_view text) {
            const double number = text::parse_number(text);
            if (std::isnan(number))
                throw py::value_error("the number " + std::string(text) + " is too large");
            return number;
        },
        py::arg("text"), "A float of a tokenizer.json as `tokenizers` reads it, not always the nearest.");
    m.def("byte_bpe", byte_bpe, py::arg("vocab"), py::arg("merges"), py::kw_only(), py::arg("rules"),
          py::arg("add_prefix_space"), py::arg("ignore_merges"), py::arg("normalizer"),
          "rules: (type, setting) of each pre_tokenizer that cuts. normalizer: (name, settings...) for each "
          "step.");
    m.def("piece_bpe", piece_bpe, py::arg("vocab"), py::arg("merges"), py::kw_only(), py::arg("unk_token"),
          py::arg("fuse_unk"), py::arg("byte_fallback"), py::arg("ignore_merges"), py::arg("normalizer"),
          py::arg("metaspace"), "metaspace: (prepend_scheme, split), or None.");
    m.def("unigram", unigram, py::arg("vocab"), py::kw_only(), py::arg("unk_id"), py::arg("byte_fallback"),
          py::arg("normalizer"), py::arg("splits_at_spaces"), py::arg("metaspace"),
          "vocab: [piece, score] each; splits_at_spaces: WhitespaceSplit.");
    m.def("wordpiece", wordpiece, py::arg("vocab"), py::kw_only(), py::arg("unk_token"), py::arg("prefix"),
          py::arg("max_word_chars"), py::arg("bert"),
          "bert: BertNormalizer's clean_text, handle_chinese_chars, strip_accents, lowercase; None: no "
          "normalizer.");
}

}  // namespace penstock::bindings
