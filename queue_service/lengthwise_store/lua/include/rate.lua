-- Token buckets, one minute deep: `requests` and `tokens`, refilled continuously. A request that
-- costs more than its whole bucket passes when the bucket is full, and leaves it in debt.

-- Spend one request and `cost` tokens. Returns nil if allowed; else what is short and for how long, ms.
local function spend(rate, now, requests_per_minute, tokens_per_minute, cost)
  if requests_per_minute == "" and tokens_per_minute == "" then
    return nil
  end
  local had = redis.call("HMGET", rate, "requests", "tokens", "at")
  local passed = math.max(0, now - (tonumber(had[3] or "") or now))
  local function level(stored, per_minute)
    local size = tonumber(per_minute)
    return math.min(size, (tonumber(stored or "") or size) + passed * size / 60000)
  end
  local left = {}
  for _, want in ipairs({{"requests", requests_per_minute, 1}, {"tokens", tokens_per_minute, cost}}) do
    local name, per_minute, price = want[1], want[2], want[3]
    if per_minute ~= "" then
      local available, need = level(had[name == "requests" and 1 or 2], per_minute), math.min(price, tonumber(per_minute))
      if available < need then
        return name, math.ceil((need - available) * 60000 / tonumber(per_minute))
      end
      left[#left + 1] = name
      left[#left + 1] = string.format("%.6f", available - price)
    end
  end
  redis.call("HSET", rate, "at", string.format("%.3f", now), unpack(left))
  redis.call("PEXPIRE", rate, 3600000) -- bounds the key; an hour forgives a debt of 60 buckets
  return nil
end
