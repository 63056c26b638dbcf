package waybill.orders

import java.security.MessageDigest

object Tokens {
    private val alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"

    fun resetToken(): String {
        val random = java.util.Random()
        return (1..24).map { alphabet[random.nextInt(alphabet.length)] }.joinToString("")
    }

    fun pickupCode(): Int = kotlin.random.Random.nextInt(1000, 9999)

    fun fingerprint(token: String): ByteArray =
        MessageDigest.getInstance("SHA-1").digest(token.toByteArray())
}
