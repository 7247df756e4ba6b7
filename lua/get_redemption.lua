-- Reads the receipt of a redemption.
-- KEYS
--   vs:{CODE}:redemption:<id>  STRING  the receipt
-- ARGV
-- Status
--   receipts                   the receipt
--   redemption_missing         1: there is no such receipt
local receipt = redis.call('GET', KEYS[1])
if not receipt then
  return {'redemption_missing', 1}
end
return {'receipts', receipt}
