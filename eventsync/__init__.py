"""eventsync keeps a PostgreSQL copy of what a practice's other systems know true within seconds.

The path of an event, and where to read it:

    web/ingress      a vendor's webhook comes in and is judged
    stages/receive   it is made durable, in PostgreSQL or the spool, and only then answered
    stages/relay     woken by NOTIFY, its id is published to the bus and confirmed
    stages/apply     a consumer understands it (vendors/*/webhook) and writes data and end in one transaction
    domain/merging   what a change does to what we hold: the one place where the total order is applied
    postgres/records the one write path
    stages/refetch   what an event only named is read from the vendor, within its API budget

`cli` and `wiring` begin it all; `domain` holds the words that everyone speaks in.
"""

__version__ = "0.1.0"
