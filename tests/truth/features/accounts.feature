Feature: An account ends when nothing is in it, and not before

  Scenario: what is available keeps an account from ending
    Given New client Dora has a balance:
      | ETH | 700000 |
    When Suspend Dora who has balances will return "USER_MGMT_USER_NOT_SUSPENDABLE_NON_EMPTY_ACCOUNTS"
    Then Status of Dora is "ACTIVE"
    And Query Dora will return "OK"
    Given -700000 ETH is added to the balance of a client Dora
    When Suspend Dora who has no balances
    Then Query Dora will return "USER_NOT_FOUND"
    And A client Dora could not place an BID order 301 at 30@1 (type: GTC, symbol: ETH_XBT) due to AUTH_INVALID_USER

  Scenario: an account that never held anything ends
    Given Users and their balances:
      | user | asset | balance |
      | Emil | XBT   | 0       |
    When Suspend Emil who has no balances
    Then Query Emil will return "USER_NOT_FOUND"

  Scenario: what an order locks keeps an account from ending, and still trades
    Given New client Fay has a balance:
      | XBT | 18000 |
    And New client Gus has a balance:
      | ETH | 400000 |
    When A client Fay places an BID order 302 at 1800@1 (type: GTC, symbol: ETH_XBT, reservePrice: 1800)
    Then A balance of a client Fay:
      | XBT | 0 |
    When Suspend Fay who has balances will return "USER_MGMT_USER_NOT_SUSPENDABLE_NON_EMPTY_ACCOUNTS"
    And A client Gus places an ASK order 303 at 1800@4 (type: GTC, symbol: ETH_XBT)
    Then The order 302 is fully matched. LastPx: 1800, LastQty: 1
    And A client Fay does not have active orders
    And A balance of a client Fay:
      | ETH | 100000 |
      | XBT | 0      |
    And Query Fay will return "OK"
