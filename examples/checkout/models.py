"""What the shop sells, and what was ordered."""

# pyright: reportCallIssue=false
# Flask-SQLAlchemy does not tell type checkers what a model is made from.

from __future__ import annotations

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    """The base of the shop's tables."""


db = SQLAlchemy(model_class=Base)


class Product(db.Model):
    """Something on the shelf."""

    __tablename__ = "product"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    blurb: Mapped[str]
    cents: Mapped[int]
    stock: Mapped[int]


class Order(db.Model):
    """What somebody bought."""

    __tablename__ = "order"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    charge_id: Mapped[str | None] = mapped_column(default=None)
    lines: Mapped[list[Line]] = relationship(back_populates="order", lazy="selectin")

    @property
    def cents(self) -> int:
        """What all of it costs."""
        return sum(line.quantity * line.product.cents for line in self.lines)


class Line(db.Model):
    """A number of one product in an order."""

    __tablename__ = "line"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("order.id"))
    product_id: Mapped[int] = mapped_column(ForeignKey("product.id"))
    quantity: Mapped[int]
    order: Mapped[Order] = relationship(back_populates="lines")
    product: Mapped[Product] = relationship(lazy="joined")


SHELF = [
    Product(
        id=1,
        name="Enamel mug",
        blurb="Holds a quarter of a litre, survives a fall.",
        cents=1400,
        stock=500,
    ),
    Product(
        id=2, name="Field notebook", blurb="96 dotted pages that lie flat.", cents=900, stock=500
    ),
    Product(
        id=3,
        name="Pocket torch",
        blurb="Bright for ten hours on one charge.",
        cents=2900,
        stock=500,
    ),
]


def stock_the_shelf() -> None:
    """Create the tables, and put the goods out the first time."""
    db.create_all()
    if db.session.query(Product).count() == 0:
        for product in SHELF:
            db.session.merge(product)
        db.session.commit()
