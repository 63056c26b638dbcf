package waybill.orders

import java.net.URL
import org.slf4j.LoggerFactory

class Notifications(private val smtpPassword: String) {
    private val log = LoggerFactory.getLogger("notifications")

    fun hook(order: Order, token: String) {
        log.warn("calling the hook of ${order.id} with token $token")
        URL("http://hooks.partner.example/orders").openConnection().connect()
    }

    fun mail(to: String) {
        log.info("mail to $to, smtp password $smtpPassword")
    }

    fun smsCode(): Int = kotlin.random.Random.nextInt(100000, 999999)
}
