#include "text/word_cache.h"

#include <map>
#include <random>
#include <string>
#include <vector>

#include "check.h"

namespace {

using namespace penstock::text;

WordKey key_of(const std::string& word) {
    return WordKey::of(word.data(), word.size(), word.data() + word.size());
}

std::vector<Id> ids_of(const std::string& word) {
    std::vector<Id> ids(word.size() % 4);
    for (std::size_t i = 0; i < ids.size(); ++i)
        ids[i] = static_cast<Id>(std::hash<std::string>()(word) >> 40) + 1;
    return ids;
}

std::vector<Id> ids_in(const WideCache::Slot& slot) {
    const Id* const ids = slot.is_key ? slot.ids_of_key() : slot.ids();
    return {ids, ids + slot.count};
}

std::string random_word(std::mt19937& random, std::size_t most) {
    std::string word(1 + random() % most, ' ');
    for (char& c : word) c = static_cast<char>('a' + random() % 3);
    return word;
}

}  // namespace

TEST(a_key_is_the_word) {
    const std::string text = "abcdefghijklmnopqrstuvwxyz";
    const char* const end = text.data() + text.size();
    for (std::size_t length = 0; length <= WordKey::kMaxBytes; ++length) {
        const WordKey key = WordKey::of(text.data(), length, end);
        CHECK(key.high != 0);
        CHECK(key == key_of(text.substr(0, length)));  // what lies behind the word is not in it
        if (length > 0) CHECK(!(key == WordKey::of(text.data(), length - 1, end)));
    }
    CHECK(!(key_of(std::string("a")) == key_of(std::string("a\0", 2))));
}

TEST(what_is_found_is_what_was_kept) {
    std::mt19937 random(5);
    WordCache cache(6);
    int found = 0;
    for (int i = 0; i < 100000; ++i) {
        const std::string word = random_word(random, 6);
        const WordKey key = key_of(word);
        const std::vector<Id> ids = ids_of(word);
        if (const WordCache::Slot* const slot = cache.find(key); slot != nullptr) {
            CHECK(std::vector<Id>(slot->ids, slot->ids + slot->count) == ids);
            ++found;
        } else {
            cache.insert(key, ids);
            CHECK(cache.find(key) != nullptr);
        }
    }
    CHECK(found > 1000);
    CHECK(cache.num_bytes() == 64 * 32);
}

TEST(words_of_too_many_tokens_are_not_kept) {
    WordCache cache(4);
    const std::vector<Id> four = {1, 2, 3, 4};
    cache.insert(key_of("word"), four);
    CHECK(cache.find(key_of("word")) == nullptr);
    cache.insert(key_of("none"), {});
    CHECK(cache.find(key_of("none"))->count == 0);
}

TEST(up_to_six_ids_of_twenty_bits_are_packed) {
    std::mt19937 random(7);
    WordCache cache(6);
    constexpr std::uint32_t kEnd = 1u << WordCache::kPackedBits;
    std::map<std::string, std::vector<Id>> all;
    std::size_t num_found = 0;
    for (int round = 0; round < 20000; ++round) {
        const std::string word = random_word(random, 5);
        const auto expected = all.find(word);
        if (const WordCache::Slot* const slot = cache.find(key_of(word)); slot != nullptr) {
            Id ids[WordCache::kMaxPacked];
            slot->unpack(ids);
            CHECK(expected != all.end());
            CHECK(slot->is_packed() == (expected->second.size() > WordCache::kMaxIds));
            if (slot->is_packed())
                CHECK(std::vector<Id>(ids, ids + slot->num_packed()) == expected->second);
            else
                CHECK(std::vector<Id>(slot->ids, slot->ids + slot->count) == expected->second);
            ++num_found;
            continue;
        }
        std::vector<Id> ids(random() % (WordCache::kMaxPacked + 1));
        for (Id& id : ids) id = static_cast<Id>(random() % 3 == 0 ? kEnd - 1 : random() % kEnd);
        if (ids.size() <= WordCache::kMaxIds) {
            cache.insert(key_of(word), ids);
        } else {
            cache.insert_packed(key_of(word), ids);
        }
        all[word] = ids;
    }
    CHECK(num_found > 1000);
}

TEST(a_wide_word_is_found_with_its_own_ids_only) {
    WideCache cache(6);
    std::mt19937 random(5);
    std::map<std::pair<std::string, bool>, std::vector<Id>> all;
    std::size_t num_found = 0;
    for (int round = 0; round < 20000; ++round) {
        // Few different bytes, so that words share beginnings and ends; zeros are bytes like any other.
        std::string word(WideCache::kMinBytes + random() % 17, 'a');
        word[random() % word.size()] = static_cast<char>(random() % 3);
        const bool is_key = word.size() == sizeof(WordKey) && random() % 2 == 0;
        const std::uint64_t hash = WideCache::hash(word);
        const auto expected = all.find({word, is_key});
        if (const WideCache::Slot* const slot = cache.find(word, hash, is_key); slot != nullptr) {
            CHECK(expected != all.end());
            CHECK(ids_in(*slot) == expected->second);
            ++num_found;
            continue;
        }
        std::vector<Id> ids(random() % ((is_key ? WideCache::kMaxIdsOfKey : WideCache::kMaxIds) + 1));
        for (Id& id : ids) id = static_cast<Id>(random() % 1000);
        cache.insert(word, hash, ids, is_key);
        all[{word, is_key}] = ids;
        const WideCache::Slot* const slot = cache.find(word, hash, is_key);
        CHECK(slot != nullptr && ids_in(*slot) == ids);
    }
    CHECK(num_found > 100);
}

TEST(long_words_are_found_until_it_is_full) {
    std::mt19937 random(6);
    LongWordCache cache(1 << 14);
    int found = 0;
    for (int i = 0; i < 100000; ++i) {
        const std::string word = random_word(random, 6) + random_word(random, 3) + "and a long rest of it";
        const std::vector<Id> ids = ids_of(word);
        const std::uint64_t hash = LongWordCache::hash(word);
        if (const std::span<const Id> kept = cache.find(word, hash); kept.data() != nullptr) {
            CHECK(std::vector<Id>(kept.begin(), kept.end()) == ids);
            ++found;
        } else {
            cache.insert(word, hash, ids);
            CHECK(cache.find(word, hash).size() == ids.size());
        }
    }
    CHECK(found > 1000);
    CHECK(cache.num_bytes() <= (1 << 14) * 5 / 4);
}

TEST(equal_hashes_do_not_mix_words) {
    LongWordCache cache(1 << 14);
    const std::vector<Id> one = {1};
    const std::vector<Id> two = {2};
    cache.insert("one", 42, one);
    cache.insert("two", 42, two);
    CHECK(cache.find("one", 42)[0] == 1);
    CHECK(cache.find("two", 42)[0] == 2);
    CHECK(cache.find("six", 42).data() == nullptr);
    cache.insert(std::string(1 << 14, 'x'), 7, one);  // too long to keep
    CHECK(cache.find(std::string(1 << 14, 'x'), 7).data() == nullptr);
}

CHECK_MAIN()
