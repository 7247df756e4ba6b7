-- Gives back what redemptions took, all or none, each once.
-- KEYS, for each voucher
--   vs:{CODE}                  STRING  the book
--   vs:{CODE}:redemption:<id>  STRING  the receipt
-- ARGV
--   call                       random, of this call: tells its own mark, found on a retry, from an earlier call's
-- Status
--   receipts                   for each voucher its receipt
--   redemption_missing         the vouchers that have no such receipt
-- include: constants
local call = ARGV[1]
local RECEIPT = '^((%w+) (%d+) (%d+) (%d+) %d+ %w+) (%S+) (.*)$'

local texts = redis.call('MGET', unpack(KEYS))
local reply, books = {'receipts'}, {}
local missing = {'redemption_missing'}
for i = 1, #KEYS / 2 do
  local book_key, text, receipt = KEYS[2 * i - 1], texts[2 * i - 1], texts[2 * i]
  if not receipt then
    missing[#missing + 1] = i
  elseif not string.match(receipt, RECEIPT) then
    error('CORRUPT ' .. book_key)
  end
  -- include: open
  books[i] = book or false
  reply[i + 1] = receipt
end
if missing[2] then
  return missing
end

for i, book in ipairs(books) do
  local book_key = KEYS[2 * i - 1]
  local taken, life, quantity, credits, points, rolled_back_by, session_key = string.match(texts[2 * i], RECEIPT)
  if rolled_back_by == '-' then
    reply[i + 1] = taken .. ' ' .. call .. ' ' .. session_key
    redis.call('SET', KEYS[2 * i], reply[i + 1], 'KEEPTTL')
    -- A voucher that was deleted and put again never gave what this redemption took.
    if book and book[LIFE] == life then
      book[QUANTITY_USED] = math.max(0, book[QUANTITY_USED] - quantity)
      book[CREDITS_USED] = math.max(0, book[CREDITS_USED] - credits)
      book[POINTS_USED] = math.max(0, book[POINTS_USED] - points)
      -- include: save
    end
  end
end
return reply
