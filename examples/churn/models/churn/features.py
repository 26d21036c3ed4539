"""What the model sees of a customer: a row of numbers.

The bends (four service calls, 220 day minutes, two international calls, 13 international minutes) were
read off the churn rates of the training rows alone, where the rate jumps. The state is left out: fifty
more columns, for about seventy training rows each, did not rank the customers better.
"""

from customers import Customer

MANY_SERVICE_CALLS = 4
LONG_DAYS_MINUTES = 220.0


def features(c: Customer) -> dict[str, float]:
    """Returns the features by name, always the same names in the same order."""
    unhappy = float(c.service_calls >= MANY_SERVICE_CALLS)
    # Without voice mail, long calls by day get dear; evening calls on top make it worse.
    dear = max(0.0, c.day_minutes - LONG_DAYS_MINUTES) * (not c.voice_mail_plan)
    return {
        "account length": float(c.account_length),
        "region 408": float(c.region == "408"),
        "region 510": float(c.region == "510"),
        "international plan": float(c.international_plan),
        "voice mail plan": float(c.voice_mail_plan),
        "voice mail messages": float(c.voice_mail_messages),
        "day minutes": c.day_minutes,
        "day calls": float(c.day_calls),
        "evening minutes": c.evening_minutes,
        "evening calls": float(c.evening_calls),
        "night minutes": c.night_minutes,
        "night calls": float(c.night_calls),
        "international minutes": c.international_minutes,
        "international calls": float(c.international_calls),
        "service calls": float(c.service_calls),
        "many service calls": unhappy,
        "many service calls x day minutes": unhappy * c.day_minutes,
        "many service calls x evening minutes": unhappy * c.evening_minutes,
        "long days without voice mail": dear,
        "long days without voice mail x evening minutes": dear * c.evening_minutes,
        "plan x few international calls": float(c.international_plan and c.international_calls <= 2),
        "plan x many international minutes": float(c.international_plan and c.international_minutes >= 13.0),
    }
