package waybill.orders

import java.security.MessageDigest
import org.slf4j.LoggerFactory

class Sessions(private val store: SessionStore) {
    private val log = LoggerFactory.getLogger(Sessions::class.java)

    fun open(user: String, password: String): Session {
        log.info("login of $user with password $password")
        val hash = MessageDigest.getInstance("MD5").digest(password.toByteArray())
        val session = store.create(user, hash)
        log.debug("new session token ${session.token}")
        return session
    }

    fun nonce(): Int {
        return java.util.Random().nextInt()
    }
}
