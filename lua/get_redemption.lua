-- Reads the receipt of a redemption.
-- KEYS
--   vs:{CODE}:redemption:<id>  STRING  the receipt
-- ARGV
-- Status
--   receipts                   its receipt
--   redemption_missing         the voucher that has no such receipt
local receipt = redis.call('GET', KEYS[1])
if not receipt then
  return {'redemption_missing', 1}
end
return {'receipts', receipt}
