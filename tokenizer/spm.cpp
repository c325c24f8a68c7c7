#include "tokenizer/spm.h"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <climits>
#include <cstring>
#include <new>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/spm_check.h"
extern "C" {
#include "core/text.h"
}

static_assert(sizeof(int) == sizeof(int32_t), "ids are handed over as they are");

struct Spm {
    sentencepiece::SentencePieceProcessor processor;
    SpmFacts facts;
};

namespace {

/* Runs body, which returns an ErrCode; what it throws becomes an error. `other` is the code of what is not a
 * lack of memory. */
template <class Body>
ErrCode guarded(ErrCode other, Err *err, Body &&body) noexcept {
    try {
        return body();
    } catch (const std::bad_alloc &) {
        return err_set(err, ERR_MEMORY, "out of memory in sentencepiece");
    } catch (const std::exception &e) {
        return err_set(err, other, "sentencepiece: %s", e.what());
    } catch (...) {
        return err_set(err, other, "sentencepiece failed without saying why");
    }
}

} // namespace

ErrCode spm_open(Spm **out, const void *bytes, size_t n, Err *err) {
    *out = nullptr;
    SpmFacts facts = {};
    const ErrCode rc = spm_check(&facts, bytes, n, err);
    if (rc != ERR_OK) return err_context(err, rc, "not a usable spm.model");
    Spm *spm = nullptr;
    const ErrCode loaded = guarded(ERR_FORMAT, err, [&] {
        spm = new Spm;
        spm->facts = facts;
        const auto status =
            spm->processor.LoadFromSerializedProto(std::string_view(static_cast<const char *>(bytes), n));
        if (!status.ok())
            return err_set(err, ERR_FORMAT, "not a usable spm.model: %s", status.error_message());
        if (spm->processor.GetPieceSize() != facts.pieces)
            return err_set(err, ERR_FORMAT, "not a usable spm.model: sentencepiece read %d of %d pieces",
                           spm->processor.GetPieceSize(), facts.pieces);
        return ERR_OK;
    });
    if (loaded != ERR_OK) {
        spm_close(spm);
        return loaded;
    }
    *out = spm;
    return ERR_OK;
}

void spm_close(Spm *spm) {
    delete spm;
}

int spm_pieces(const Spm *spm) {
    return spm->facts.pieces;
}

const char *spm_piece(const Spm *spm, int id) {
    return spm->processor.IdToPiece(id).c_str();
}

int spm_find(const Spm *spm, const char *piece) {
    int id = -1;
    Err ignored;
    const ErrCode rc = guarded(ERR_BACKEND, &ignored, [&] {
        id = spm->processor.PieceToId(piece);
        if (id < 0 || id >= spm->facts.pieces || spm->processor.IdToPiece(id) != piece) id = -1;
        return ERR_OK;
    });
    return rc == ERR_OK ? id : -1;
}

bool spm_cuts_at_space(const Spm *spm) {
    return spm->facts.cuts_at_space;
}

ErrCode spm_encode(const Spm *spm, const char *text, size_t n, Buf *ids, Err *err) {
    if (n > SPM_TEXT_MAX)
        return err_set(err, ERR_ARGUMENT, "text of %zu bytes: at most %zu can be encoded at once", n,
                       SPM_TEXT_MAX);
    if (n == 0) return ERR_OK;
    return guarded(ERR_BACKEND, err, [&] {
        std::vector<int> made;
        const auto status = spm->processor.Encode(std::string_view(text, n), &made);
        if (!status.ok()) return err_set(err, ERR_BACKEND, "sentencepiece: %s", status.error_message());
        buf_put(ids, made.data(), made.size() * sizeof(int));
        return buf_ok(ids, err);
    });
}

/* ---- training ---- */

namespace {

/* sentencepiece stops the program when a corpus normalises to nothing. A sentence with one of these keeps at
 * least a character through nmt_nfkc, which removes or blanks controls and spaces (below U+00A1, U+1680,
 * U+2000 .. U+3000, and those around the private ones, which are left out here as a whole). */
bool is_visible(uint32_t cp) {
    return (cp > 0x20 && cp < 0x7f) || (cp > 0xa0 && cp < 0x1680) || (cp > 0x1680 && cp < 0x2000) ||
           (cp > 0x3000 && cp < 0xd800) || (cp >= 0x10000 && cp < 0xe0000);
}

/* Hands out the sentences in slices of at most SLICE bytes, cut behind a space where there is one: the
 * trainer's tables grow with the length of a sentence, and it drops long ones altogether. */
class Slices final : public sentencepiece::SentenceIterator {
   public:
    Slices(const char *const *sentences, const size_t *lengths, size_t count)
        : sentences_(sentences), lengths_(lengths), count_(count) {
        Next();
    }
    bool done() const override { return done_; }
    const std::string &value() const override { return slice_; }
    sentencepiece::util::Status status() const override { return {}; }

    void Next() override {
        while (index_ < count_ && at_ >= lengths_[index_]) {
            index_++;
            at_ = 0;
        }
        done_ = index_ == count_;
        if (done_) return;
        const char *s = sentences_[index_] + at_;
        size_t n = lengths_[index_] - at_;
        if (n > SLICE) {
            n = SLICE;
            while (n > 0 && s[n - 1] != ' ') n--;
            if (n == 0)
                for (n = SLICE; n > SLICE - 4 && (static_cast<unsigned char>(s[n]) & 0xc0) == 0x80;) n--;
        }
        slice_.assign(s, n);
        at_ += n;
        /* U+2585 is the trainer's own sign for "unknown"; it drops sentences that contain it. */
        for (size_t i; (i = slice_.find("\xe2\x96\x85")) != std::string::npos;) slice_.replace(i, 3, " ");
    }

   private:
    static constexpr size_t SLICE = 4000; /* below the trainer's limit of 4192 */
    const char *const *sentences_;
    const size_t *lengths_;
    size_t count_, index_ = 0, at_ = 0;
    std::string slice_;
    bool done_ = false;
};

ErrCode check_sentences(const char *const *sentences, const size_t *lengths, size_t count, Err *err) {
    size_t total = 0;
    bool visible = false;
    for (size_t i = 0; i < count; i++) {
        /* The trainer's suffix array counts characters in int. */
        if (lengths[i] > INT_MAX / 2 - 1 - total)
            return err_set(err, ERR_ARGUMENT, "too much text for training a tokenizer: at most %d bytes",
                           INT_MAX / 2);
        total += lengths[i] + 1;
        for (size_t at = 0; at < lengths[i] && !visible;) {
            uint32_t cp;
            at += text_utf8_next(sentences[i] + at, lengths[i] - at, &cp);
            visible = is_visible(cp);
        }
    }
    if (!visible)
        return err_set(err, ERR_ARGUMENT,
                       "nothing to train a tokenizer on: no letters, digits or signs in %zu texts", count);
    return ERR_OK;
}

} // namespace

ErrCode spm_train(Buf *out, const char *const *sentences, const size_t *lengths, size_t count, int pieces,
                  int threads, Err *err) {
    static_cast<void>(threads);
    const int least = 4 + 256 + 1;
    if (pieces < least || pieces > 1000000)
        return err_set(err, ERR_ARGUMENT, "vocab_size: found %d, expected %d to 1000000", pieces, least);
    const ErrCode rc = check_sentences(sentences, lengths, count, err);
    if (rc != ERR_OK) return rc;
    return guarded(ERR_BACKEND, err, [&] {
        const std::unordered_map<std::string, std::string> options = {
            {"model_type", "unigram"},
            {"vocab_size", std::to_string(pieces)},
            {"hard_vocab_limit", "false"}, /* fewer pieces from little text */
            {"byte_fallback", "true"},
            {"normalization_rule_name", "nmt_nfkc"},
            {"character_coverage", "0.9995"},
            {"max_sentencepiece_length", "16"},
            {"required_chars", "\xe2\x96\x81"}, /* the word mark, whatever the text: see is_visible */
            {"pad_id", "0"},
            {"bos_id", "1"},
            {"eos_id", "2"},
            {"unk_id", "3"},
            {"pad_piece", "[PAD]"},
            {"bos_piece", "[CLS]"},
            {"eos_piece", "[SEP]"},
            {"unk_piece", "[UNK]"},
            {"num_threads", "8"}, /* fixed: the order of float sums, and a field of the file */
            {"minloglevel", "3"},
        };
        Slices slices(sentences, lengths, count);
        std::string model;
        const auto status = sentencepiece::SentencePieceTrainer::Train(options, &slices, &model);
        if (!status.ok()) {
            /* "Vocabulary size is smaller than required_chars. 300 vs 350. ..." */
            const std::string why = status.error_message();
            const size_t vs = why.find(" vs ");
            if (vs != std::string::npos && why.find("smaller than required_chars") != std::string::npos)
                return err_set(err, ERR_ARGUMENT, "vocab_size: found %d, this text needs at least %.*s",
                               pieces, static_cast<int>(std::strspn(why.c_str() + vs + 4, "0123456789")),
                               why.c_str() + vs + 4);
            return err_set(err, ERR_BACKEND, "training the tokenizer: %s", why.c_str());
        }
        buf_put(out, model.data(), model.size());
        return buf_ok(out, err);
    });
}
