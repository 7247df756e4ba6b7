-- Gives back what redemptions took, all or none, each once.
-- KEYS, for each voucher
--   vs:{CODE}                  STRING  the book
--   vs:{CODE}:redemption:<id>  STRING  the receipt
-- ARGV
--   call                       random, of this call: tells its own mark, found on a retry, from an earlier call's
-- Status
--   receipts                   for each voucher its receipt
--   redemption_missing         the voucher that has no such receipt
-- include: book
local call = ARGV[1]
local RECEIPT = '^((%w+) (%d+) (%d+) (%d+) %d+ %w+) (%S+) (.*)$'

local texts = redis.call('MGET', unpack(KEYS))
local reply = {'receipts'}
for i = 1, #KEYS / 2 do
  if not texts[2 * i] then
    return {'redemption_missing', i}
  end
  if not string.match(texts[2 * i], RECEIPT) then
    corrupt(KEYS[2 * i - 1])
  end
  reply[i + 1] = texts[2 * i]
end

for i = 1, #KEYS / 2 do
  local taken, life, quantity, credits, points, rolled_back_by, session_key = string.match(texts[2 * i], RECEIPT)
  if rolled_back_by == '-' then
    reply[i + 1] = taken .. ' ' .. call .. ' ' .. session_key
    redis.call('SET', KEYS[2 * i], reply[i + 1], 'KEEPTTL')
    local book = open_book(KEYS[2 * i - 1], '', texts[2 * i - 1])
    -- A voucher that was deleted and put again never gave what this redemption took.
    if book and book.life == life then
      add(book.used, -quantity, -credits, -points)
      save_book(book)
    end
  end
end
return reply
