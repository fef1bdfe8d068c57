"""What the marketplace keeps of money on its way: escrows, payouts, wallets, and the papers that a payee must show."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """One escrow, payout, wallet or check of papers (`kyc`), as its type says, and where it stands.

    `external_id` and `user_id` are the app's, as is `booking_id`: what the money is for.
    """

    id: str
    type: str
    status: str
    user_id: str
    external_id: str | None
    booking_id: str | None
    amount_cents: int | None
    created_ms: int
    modified_ms: int
